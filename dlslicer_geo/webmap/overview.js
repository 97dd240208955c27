/* Cells of many chips each, coloured by what most of them are: what a map of any size shows from afar. */
function dlslicerOverview(map, data, chips) {
  "use strict";
  const { element, add, percent, button } = dlslicerTools;
  const cells = data.tiles.overview;
  const look = { mode: "city", under: false };
  const renderer = L.canvas({ pane: "dl-chips", padding: 0.4 });
  const layer = L.layerGroup();
  const code = (city) => (data.cities[city] ? data.cities[city].code : "unknown");

  function degrees(x, y) {
    const side = 2 ** cells.zoom;
    return [(Math.atan(Math.sinh((0.5 - y / side) * 2 * Math.PI)) * 180) / Math.PI, (x / side - 0.5) * 360];
  }

  // a cell as a chip: what most of its chips are, right where at least half of those with a truth are
  function chipOf(i) {
    const known = cells.known[i] > 0;
    const right = 2 * cells.right[i] >= cells.known[i];
    const truth = !known ? -1 : right ? cells.city[i] : data.cities.length;
    const unknown = 2 * cells.unknown[i] > cells.chips[i];
    return { city: cells.city[i], truth, unknown, confidence: cells.confidence[i], split: cells.split[i] };
  }

  function style(chip) {
    const { fill, stroke, hatch } = chips.paint(chip, look.mode);
    const lines = { fillOpacity: look.under ? 0.3 : 0.7, opacity: 0.9 };
    return { ...lines, weight: 1, color: stroke, fillColor: hatch && chips.pattern ? chips.pattern : fill };
  }

  function card(i, bounds) {
    const many = (n) => n.toLocaleString("en") + (n === 1 ? " chip" : " chips");
    const box = element("div", "dl-popup");
    add(box, element("h3", "", many(cells.chips[i])));
    const lines = ["most often " + code(cells.city[i]) + ", mean confidence " + percent(cells.confidence[i])];
    if (cells.known[i]) lines.push(percent(cells.right[i] / cells.known[i]) + " right of " + many(cells.known[i]) + " with a known city");
    if (cells.unknown[i]) lines.push(many(cells.unknown[i]) + " unknown to the model");
    lines.forEach((text) => add(box, element("p", "", text)));
    return add(box, button("", "Zoom to this cell", "", () => map.fitBounds(bounds, { maxZoom: 16 })));
  }

  const drawn = cells.x.map((x, i) => {
    const bounds = L.latLngBounds(degrees(x, cells.y[i] + 1), degrees(x + 1, cells.y[i]));
    const chip = chipOf(i);
    const cell = L.rectangle(bounds, { renderer, pane: "dl-chips", ...style(chip) });
    cell.on("click", (event) => L.popup({ minWidth: 236 }).setLatLng(event.latlng).setContent(card(i, bounds)).openOn(map));
    layer.addLayer(cell);
    return { chip, cell };
  });

  function restyle() {
    drawn.forEach(({ chip, cell }) => cell.setStyle(style(chip)));
  }

  layer.setMode = (mode) => { look.mode = mode; restyle(); };
  layer.setUnder = (under) => { look.under = under; restyle(); };
  return layer;
}
