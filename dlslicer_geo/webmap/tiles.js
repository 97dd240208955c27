/* Layers that are read from tiles beside the page, and the overview that is shown where they cannot be. */
function dlslicerTiles(map, data, chips) {
  "use strict";
  if (!data.tiles) return null;
  const { element, add } = dlslicerTools;
  const overview = data.tiles.overview ? dlslicerOverview(map, data, chips) : null;
  const missing = data.tiles.missing.length > 0;
  const local = window.location.protocol === "file:"; // from there a browser fetches nothing
  const closest = data.tiles.chips ? data.tiles.chips.zooms[0] + 1 : 0; // a tile is two screen tiles wide
  const sources = {}; // address → FileSource of a file that the reader chose
  const rasters = {};
  let vector = null;

  map.options.minZoom = 0; // or Leaflet would not go farther away than the tiles do
  data.tiles.rasters.forEach((raster) => { rasters[raster.name] = L.layerGroup(); });

  /* ---- chips ---- */

  const Chips = L.LayerGroup.extend({
    onAdd() {
      map.on("zoomend", this.choose, this);
      map.on("click", this.pick, this);
      this.choose();
    },
    onRemove() {
      map.off("zoomend", this.choose, this);
      map.off("click", this.pick, this);
      [overview, vector].forEach((layer) => { if (layer) layer.remove(); });
    },
    choose() {
      const near = vector && Math.round(map.getZoom()) >= closest;
      if (vector && near) vector.addTo(map);
      if (vector && !near) vector.remove();
      if (near) overview.remove(); else overview.addTo(map);
    },
    chipsAt: (at) => (vector && map.hasLayer(vector) ? vector.chipsAt(at) : []),
    pick(event) {
      const found = this.chipsAt(event.latlng);
      if (found.length) chips.open(found, event.latlng);
    },
    setMode(mode) {
      overview.setMode(mode);
      if (vector) vector.setMode(mode);
      this.mode = mode;
    },
    setUnder(under) {
      overview.setUnder(under);
      if (vector) vector.setUnder(under);
      this.under = under;
    },
  });
  const layer = overview ? new Chips() : null;

  function openChips(source) {
    if (vector) vector.remove();
    vector = dlslicerVector(map, data, chips, source);
    vector.setMode(layer.mode || "city");
    vector.setUnder(Boolean(layer.under));
    if (map.hasLayer(layer)) layer.choose();
  }

  /* ---- rasters ---- */

  function openRaster(raster, source) {
    const [first, last] = raster.zooms;
    const options = { pane: "dl-" + raster.kind, minZoom: first - 0.5, maxZoom: 21, maxNativeZoom: last, noWrap: true, bounds: raster.bounds };
    const archive = new pmtiles.PMTiles(source);
    rasters[raster.name].clearLayers();
    rasters[raster.name].addLayer(pmtiles.leafletRasterLayer(archive, options));
    if (raster.kind === "image") chips.setImagery(dlslicerImagery(archive, raster.zooms));
  }

  /* ---- where the tiles come from ---- */

  function open(address) {
    const source = sources[address] || address;
    if (data.tiles.chips && data.tiles.chips.url === address) openChips(source);
    data.tiles.rasters.filter((raster) => raster.url === address).forEach((raster) => openRaster(raster, source));
  }

  const addresses = [data.tiles.chips, ...data.tiles.rasters].filter(Boolean).map((one) => one.url);
  const nameOf = (address) => address.split("/").pop();

  function choose(files, said) {
    const known = [...files].filter((file) => addresses.some((address) => nameOf(address) === file.name));
    addresses.forEach((address) => {
      const file = known.find((one) => one.name === nameOf(address));
      if (!file) return;
      sources[address] = new pmtiles.FileSource(file);
      open(address);
    });
    const names = known.map((file) => file.name).join(", ");
    said.textContent = known.length ? "Read from disk: " + names + "." : "None of these files belongs to this map.";
  }

  function notice() {
    const box = element("section", "dl-tiles");
    if (missing) {
      const text = "This map was made without " + data.tiles.missing.join(" and ") + ", which read the tiles beside it: it shows an overview.";
      return add(box, element("p", "", text));
    }
    if (!local) return null;
    const text = "Opened from disk, a browser cannot read what lies beside this file: you see an overview. Run " +
      "“dlslicer-geo serve” with the run folder to see every chip, or choose the files of the folder “map” here.";
    const input = element("input");
    Object.assign(input, { type: "file", multiple: true, accept: ".pmtiles" });
    input.setAttribute("aria-label", "Files of the folder map");
    const said = element("p");
    said.setAttribute("role", "status");
    input.addEventListener("change", () => choose(input.files, said));
    return add(box, element("p", "", text), input, said);
  }

  if (!missing && !local) addresses.forEach(open);
  return { chips: layer, rasters, notice: notice() };
}

/* Chips from vector tiles, painted as the embedded ones are. */
function dlslicerVector(map, data, chips, source) {
  "use strict";
  const look = { mode: "city", under: false };
  const [first, deepest] = data.tiles.chips.zooms;

  function chipOf(properties) {
    const p = properties;
    const top = [0, 1, 2, 3, 4].map((place) => p["top" + place]).filter((packed) => packed)
      .map((packed) => [Math.floor(packed / 16384) - 1, (packed % 16384) / 10000]);
    return {
      id: p.chip_id, scene: p.scene, site: p.site, date: p.date, split: p.split, city: p.city - 1, truth: p.truth - 1,
      unknown: p.unknown, confidence: p.confidence / 10000, inner: p.inner / 10000, vague: p.vague, top,
    };
  }

  // overlapping chips would hide each other: what is filled is the middle of a chip, a little less than a stride wide
  function trace(pen, ring, inner) {
    const x = (ring[0].x + ring[1].x + ring[2].x + ring[3].x) / 4;
    const y = (ring[0].y + ring[1].y + ring[2].y + ring[3].y) / 4;
    pen.beginPath();
    for (let i = 0; i < 4; i++) {
      const [at, to] = [x + (ring[i].x - x) * inner, y + (ring[i].y - y) * inner];
      if (i) pen.lineTo(at, to); else pen.moveTo(at, to);
    }
    pen.closePath();
  }

  function draw(pen, rings, zoom, feature) {
    feature.chip = feature.chip || chipOf(feature.props);
    const { fill, stroke, hatch } = chips.paint(feature.chip, look.mode);
    trace(pen, rings[0], 0.95 * feature.chip.inner);
    pen.globalAlpha = look.under ? 0.03 : 0.6;
    pen.fillStyle = hatch && chips.pattern ? chips.pattern : fill;
    pen.fill();
    pen.globalAlpha = 0.95;
    pen.strokeStyle = stroke;
    pen.lineWidth = look.under ? 2.5 : 1;
    pen.setLineDash(hatch ? [3, 3] : []);
    pen.stroke();
    pen.globalAlpha = 1;
  }

  const layer = protomapsL.leafletLayer({
    url: new pmtiles.PMTiles(source), maxDataZoom: deepest, minZoom: first + 0.5, maxZoom: 21, // half: zooms are rounded
    pane: "dl-chips", paintRules: [{ dataLayer: "chips", symbolizer: { draw } }], labelRules: [], lang: "en",
    attribution: "", noWrap: true,
  });

  // Web Mercator from 0 to 1 from west to east and from north to south, as the tiles are cut
  function world(at) {
    const lat = (at.lat * Math.PI) / 180;
    return { x: at.lng / 360 + 0.5, y: 0.5 - Math.asinh(Math.tan(lat)) / (2 * Math.PI) };
  }

  function degrees(x, y) {
    return [(Math.atan(Math.sinh((0.5 - y) * 2 * Math.PI)) * 180) / Math.PI, (x - 0.5) * 360];
  }

  // the chips under the pointer, the one whose middle is nearest first: chips overlap, and scenes of several dates do
  layer.chipsAt = (at) => {
    const zoom = Math.min(Math.round(map.getZoom()) - 1, deepest);
    const found = layer.queryTileFeaturesDebug(at.lng, at.lat).get("").map((one) => one.feature);
    const point = world(at);
    const tile = [point.x, point.y].map((value) => Math.floor(value * 2 ** zoom));
    const inTile = { x: (point.x * 2 ** zoom - tile[0]) * 512, y: (point.y * 2 ** zoom - tile[1]) * 512 };
    const far = ({ bbox }) => Math.hypot((bbox.minX + bbox.maxX) / 2 - inTile.x, (bbox.minY + bbox.maxY) / 2 - inTile.y);
    const ringOf = ({ geom }) => geom[0].slice(0, 4).flatMap((p) => degrees((tile[0] + p.x / 512) / 2 ** zoom, (tile[1] + p.y / 512) / 2 ** zoom));
    return found.sort((a, b) => far(a) - far(b)).map((feature) => ({ ...chipOf(feature.props), ring: ringOf(feature) }));
  };
  layer.setMode = (mode) => { look.mode = mode; layer.rerenderTiles(); };
  layer.setUnder = (under) => { look.under = under; layer.rerenderTiles(); };
  return layer;
}
