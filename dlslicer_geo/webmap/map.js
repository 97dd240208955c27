/* Draws the content of a dlslicer_geo map. Every text of the data goes through textContent, never through HTML. */
function dlslicerMap(map, data) {
  "use strict";
  const { element, add, fit, narrow, percent, sheet } = dlslicerTools;
  const depth = { ground: 205, grid: 210, image: 300, city: 320, confidence: 325, saliency: 340, scenes: 400, chips: 450, picked: 460, places: 620 };

  function panes() {
    data.sections.forEach((section) => { depth[section.kind] = depth[section.kind] || 345; });
    Object.keys(depth).forEach((name) => { map.createPane("dl-" + name).style.zIndex = depth[name]; });
    map.getPane("dl-picked").style.pointerEvents = "none";
  }

  // large maps bring tiles: they fill the sections that hold nothing in the page; of several depths the deepest is on
  function withTiles(drawn, chips) {
    const tiles = data.tiles ? dlslicerTiles(map, data, chips) : null;
    if (!tiles) return drawn;
    const groups = { chips: tiles.chips ? [{ name: "", items: [], layer: tiles.chips }] : [] };
    data.tiles.rasters.forEach((raster) => {
      const before = (groups[raster.kind] = groups[raster.kind] || []);
      before.forEach((group) => { group.off = true; });
      before.push({ name: raster.title, items: [raster], layer: tiles.rasters[raster.name] });
    });
    const both = (name) => (value) => { drawn[name](value); if (tiles.chips) tiles.chips[name](value); };
    const sections = drawn.sections.map((section) => ({ ...section, groups: [...section.groups, ...(groups[section.kind] || [])] }));
    const chipsAt = (at) => [...drawn.chipsAt(at), ...(tiles.chips ? tiles.chips.chipsAt(at) : [])];
    return { ...drawn, sections, chipsAt, setMode: both("setMode"), setUnder: both("setUnder"), notice: tiles.notice };
  }

  function summaryText() {
    const sum = (name) => data.places.reduce((total, place) => total + place[name], 0);
    const many = (n, one, more) => n.toLocaleString("en") + " " + (n === 1 ? one : more);
    const parts = [many(data.places.length, "place", "places")];
    if (sum("chips")) parts.push(many(sum("chips"), "chip", "chips"));
    if (sum("known")) parts.push(Math.round((100 * sum("right")) / sum("known")) + " % right");
    if (sum("unknown")) parts.push(percent(sum("unknown") / sum("chips")) + " unknown to the model");
    return parts.join(" · ");
  }

  function head() {
    const made = add(element("summary"), element("h1", "", data.title), element("p", "dl-sum", summaryText()));
    const text = "Approximate positions: these scenes lie somewhere in their city. Nothing follows from where they are drawn.";
    return data.approximate ? add(made, element("p", "dl-vague", text)) : made;
  }

  // what a mouse does with a click, the Enter key does in the middle of the map
  function keyboard(drawn, chips) {
    const box = map.getContainer();
    box.setAttribute("aria-label", "Map. Arrow keys move it, plus and minus zoom, Enter opens the chip in the middle, Escape closes its card.");
    box.addEventListener("keydown", (event) => {
      const found = event.key === "Enter" && event.target === box ? drawn.chipsAt(map.getCenter()) : [];
      if (found.length) chips.open(found, map.getCenter()).getElement().querySelector(".leaflet-popup-close-button").focus();
    });
    document.addEventListener("pointerdown", () => document.body.classList.remove("dl-keys"), true);
    document.addEventListener("keydown", (event) => {
      document.body.classList.add("dl-keys");
      if (event.key !== "Escape" || !box.querySelector(".leaflet-popup")) return;
      map.closePopup();
      box.focus({ preventScroll: true });
    });
  }

  function panel(drawn, chips, search) {
    const kinds = drawn.sections.map((section) => section.kind);
    const legend = dlslicerLegend(map, data, chips);
    const switches = dlslicerPanel(map, data, drawn, legend);
    const details = element("details");
    details.open = !narrow() || Boolean(drawn.notice); // what cannot be seen is said at once
    const layers = switches.section(chips);
    const overlays = kinds.filter((kind) => !["chips", "scenes", "image"].includes(kind));
    if (overlays.length && kinds.includes("image")) add(layers, dlslicerSwipe(map, overlays).control());
    add(details, head(), drawn.notice, search.section(), layers, legend.section(kinds), dlslicerBasemaps(map, data).section(), legend.notes(kinds));
    const box = add(document.getElementById("dl-panel"), details);
    L.DomEvent.disableClickPropagation(box);
    L.DomEvent.disableScrollPropagation(box);
    const room = () => document.documentElement.style.setProperty("--sheet", sheet() + "px");
    map.on("resize", room);
    room();
    map.on("moveend", switches.refresh);
    switches.refresh();
  }

  document.documentElement.lang = "en";
  panes();
  L.control.scale({ position: "bottomright", imperial: false }).addTo(map);
  const search = dlslicerSearch(map, data);
  const start = data.start >= 0 ? data.places[data.start].bounds : search.everything;
  const chips = dlslicerChips(map, data);
  const drawn = withTiles(dlslicerLayers(map, data, chips), chips);
  panel(drawn, chips, search);
  fit(map, start, false);
  keyboard(drawn, chips);
  dlslicerGraticule(map);
  dlslicerPlaces(map, data);
  map.getContainer().dataset.ready = "yes";
}
