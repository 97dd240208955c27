/* The layers that lie in the page: chips and outlines on a canvas, pictures between two corners. */
function dlslicerLayers(map, data, chips) {
  "use strict";
  const polygons = []; // {chip, polygon}
  const pictures = []; // {item, overlay} of what has depths
  const look = { mode: "city", under: false };
  const renderers = {};

  const corners = (ring) => [0, 2, 4, 6].map((i) => [ring[i], ring[i + 1]]);

  // overlapping chips would hide each other: what is filled is the middle of a chip, a little less than a stride wide
  function middle(ring, stride) {
    const inner = 0.95 * stride;
    const points = corners(ring);
    const lat = points.reduce((sum, p) => sum + p[0], 0) / 4;
    const lon = points.reduce((sum, p) => sum + p[1], 0) / 4;
    return points.map((p) => [lat + (p[0] - lat) * inner, lon + (p[1] - lon) * inner]);
  }

  // what lies under the chips must be seen: they keep their outline and lose their fill
  function style(chip) {
    const { fill, stroke, hatch } = chips.paint(chip, look.mode);
    const lines = look.under ? { fillOpacity: 0.03, weight: 2.5, opacity: 0.95 } : { fillOpacity: 0.6, weight: 1, opacity: 0.95 };
    return { ...lines, color: stroke, fillColor: hatch ? chips.pattern : fill, dashArray: hatch ? "3 3" : null };
  }

  function drawChips(columns, layer) {
    columns.id.forEach((id, i) => {
      const chip = {};
      Object.keys(columns).forEach((name) => { chip[name] = columns[name][i]; });
      const place = { renderer: canvas("chips"), pane: "dl-chips" };
      const polygon = L.polygon(middle(chip.ring, chip.inner), { ...place, ...style(chip) });
      polygon.on("click", (event) => chips.open([chip, ...chipsAt(event.latlng).filter((one) => one !== chip)], event.latlng));
      polygons.push({ chip, polygon });
      layer.addLayer(polygon);
    });
  }

  function drawOutline(ring, name, layer) {
    const line = { renderer: canvas("scenes"), pane: "dl-scenes", color: "#6b7580", weight: 1, fill: false, interactive: false };
    layer.addLayer(L.polygon(ring, name.endsWith(" (approximate)") ? { ...line, dashArray: "4 4" } : line));
  }

  function drawPicture(kind, item, layer) {
    const first = item.depths ? item.depths[item.depths.length - 1] : item;
    const overlay = L.imageOverlay(first.src, item.bounds, { pane: "dl-" + kind, alt: item.title });
    if (item.depths) pictures.push({ item, overlay });
    layer.addLayer(overlay);
  }

  function canvas(kind) {
    renderers[kind] = renderers[kind] || L.canvas({ pane: "dl-" + kind, padding: 0.4 });
    return renderers[kind];
  }

  function group(kind, { name, items }) {
    const layer = L.layerGroup();
    items.forEach((item) => {
      if (kind === "chips") drawChips(item, layer);
      else if (kind === "scenes") drawOutline(item, name, layer);
      else drawPicture(kind, item, layer);
    });
    return { name, items, layer };
  }

  function restyle() {
    polygons.forEach(({ chip, polygon }) => polygon.setStyle(style(chip)));
  }

  // a file that lacks the depth shows nothing, rather than another depth
  function setDepth(name) {
    pictures.forEach(({ item, overlay }) => {
      const found = item.depths.find((depth) => depth.name === name);
      overlay.setUrl(found ? found.src : L.Util.emptyImageUrl);
    });
  }

  // the chips that are shown and lie over a point, the one whose middle is nearest first
  function chipsAt(at) {
    const over = polygons.filter(({ chip, polygon }) => map.hasLayer(polygon) && L.latLngBounds(corners(chip.ring)).contains(at));
    const far = ({ polygon }) => at.distanceTo(polygon.getBounds().getCenter());
    return over.sort((a, b) => far(a) - far(b)).map(({ chip }) => chip);
  }

  return {
    sections: data.sections.map((section) => ({ ...section, groups: section.groups.map((one) => group(section.kind, one)) })),
    setMode: (mode) => { look.mode = mode; restyle(); },
    setUnder: (under) => { if (look.under !== under) { look.under = under; restyle(); } },
    setDepth, chipsAt,
  };
}
