/* Draws the content of a dlslicer_geo map. Every text of the data goes through textContent, never through HTML. */
function dlslicerMap(map, data) {
  "use strict";
  const { element, add, narrow } = dlslicerTools;
  const depth = { image: 300, city: 320, confidence: 325, saliency: 340, scenes: 400, chips: 450 };
  const fallback = "#7a828a";
  const edge = "#4a4f55"; // around what is unknown, and across it
  const switches = {}; // kind → [{name, layer, box}]
  let scaleText = null;
  let chipLayers = [];
  let picked = null;

  const colour = (city) => (data.cities[city] && data.cities[city].colour) || fallback;
  const hatch = data.unknown ? hatching(data.unknown.colour) : null;
  const code = (city) => (data.cities[city] ? data.cities[city].code : "unknown");
  const shown = (share) => (share > 0 && share < 0.005 ? "< 1" : Math.round(100 * share)) + "\u00a0%";
  const number = (value) => Number(value.toPrecision(3)).toString();

  function fit(bounds, animate) {
    const padding = narrow()
      ? { paddingTopLeft: [28, 56], paddingBottomRight: [28, 104] }
      : { paddingTopLeft: [348, 40], paddingBottomRight: [64, 40] };
    if (animate) map.flyToBounds(bounds, { ...padding, maxZoom: 18, duration: 0.9 });
    else map.fitBounds(bounds, { ...padding, maxZoom: 18, animate: false });
  }

  /* ---- chips, scenes, pictures ---- */

  function corners(ring) {
    return [0, 2, 4, 6].map((i) => [ring[i], ring[i + 1]]);
  }

  // overlapping chips would hide each other: what is filled is the middle of a chip, a little less than a stride wide
  function middle(ring, stride) {
    const inner = 0.95 * stride;
    const points = corners(ring);
    const lat = points.reduce((sum, p) => sum + p[0], 0) / 4;
    const lon = points.reduce((sum, p) => sum + p[1], 0) / 4;
    return points.map((p) => [lat + (p[0] - lat) * inner, lon + (p[1] - lon) * inner]);
  }

  // a pattern that a canvas fills with: what is unknown must not differ from a city by its grey alone
  function hatching(grey) {
    const tile = element("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.fillStyle = grey;
    pen.fillRect(0, 0, 8, 8);
    pen.strokeStyle = edge;
    [-8, 0, 8].forEach((x) => { pen.moveTo(x - 1, 9); pen.lineTo(x + 9, -1); });
    pen.stroke();
    return pen.createPattern(tile, "repeat");
  }

  function verdict(chip) {
    if (chip.truth < 0) return element("span", "", "true city not known");
    if (chip.unknown) return element("span", "", "not answered: it is " + code(chip.truth));
    const right = chip.truth === chip.city;
    return element("span", right ? "right" : "wrong", right ? "right" : "wrong: it is " + code(chip.truth));
  }

  function chipPopup(chip) {
    const box = element("div", "dl-popup");
    const nearest = "unknown (nearest: " + code(chip.city) + " " + chip.confidence.toFixed(2) + ")";
    add(box, element("h3", "", chip.unknown ? nearest : code(chip.city)));
    const line = add(element("p"), verdict(chip));
    const sure = chip.unknown ? "" : " · confidence " + shown(chip.confidence);
    add(line, document.createTextNode(sure + " · " + chip.split));
    const bars = element("ol", "dl-bars");
    chip.top.forEach(([city, share]) => {
      const bar = element("i");
      bar.style.width = 100 * share + "%";
      bar.style.background = colour(city);
      const name = element("span", "", code(city));
      name.title = code(city);
      add(bars, add(element("li"), name, add(element("div"), bar), element("small", "", shown(share))));
    });
    const source = "chip " + chip.id + " of " + chip.scene + (chip.date ? ", " + chip.date : "");
    const closer = element("button", "", "Zoom to this chip");
    closer.type = "button";
    closer.addEventListener("click", () => fit(L.latLngBounds(corners(chip.ring)), true));
    const where = chip.vague ? [element("p", "dl-vague", "approximate position: somewhere in its city")] : [];
    return add(box, line, bars, element("p", "", source), ...where, closer);
  }

  function open(chip, where) {
    if (picked) picked.remove();
    picked = L.polygon(corners(chip.ring), {
      pane: "dl-picked", color: "#111", weight: 2, fill: false, interactive: false, dashArray: "4 3",
    }).addTo(map);
    L.popup({ maxWidth: 268, autoPanPaddingTopLeft: narrow() ? [16, 16] : [340, 16] })
      .setLatLng(where).setContent(chipPopup(chip)).openOn(map);
  }

  function drawChips(columns, layer, renderer) {
    columns.id.forEach((id, i) => {
      const chip = {};
      Object.keys(columns).forEach((name) => { chip[name] = columns[name][i]; });
      const paint = chip.unknown ? { color: edge, fillColor: hatch, dashArray: "3 3" } : { color: colour(chip.city) };
      const polygon = L.polygon(middle(chip.ring, chip.inner), { renderer, pane: "dl-chips", ...paint });
      polygon.on("click", (event) => open(chip, event.latlng));
      chipLayers.push(polygon);
      layer.addLayer(polygon);
    });
  }

  function drawGroup(kind, group, renderer) {
    const layer = L.layerGroup();
    group.items.forEach((item) => {
      if (kind === "chips") drawChips(item, layer, renderer);
      else if (kind === "scenes") {
        const line = { renderer, pane: "dl-scenes", color: "#39434d", weight: 1, fill: false, interactive: false };
        if (group.name.endsWith(" (approximate)")) line.dashArray = "4 4";
        layer.addLayer(L.polygon(item, line));
      } else layer.addLayer(L.imageOverlay(item.src, item.bounds, { pane: "dl-" + kind, alt: item.title }));
    });
    return layer;
  }

  // what lies under the chips must be seen: they keep their outline and lose their fill
  function restyleChips() {
    const under = ["saliency", "city", "confidence"].some((kind) => (switches[kind] || []).some((s) => s.box.checked));
    const style = under ? { fillOpacity: 0.03, weight: 2, opacity: 0.9 } : { fillOpacity: 0.5, weight: 1, opacity: 0.95 };
    chipLayers.forEach((polygon) => polygon.setStyle(style));
  }

  /* ---- panel ---- */

  function checkbox(label, on, change) {
    const box = element("input");
    box.type = "checkbox";
    box.checked = on;
    box.setAttribute("aria-label", label);
    box.addEventListener("change", change);
    return box;
  }

  function toggle(entry) {
    if (entry.box.checked) entry.layer.addTo(map);
    else entry.layer.remove();
  }

  function layerControl(section, on) {
    const needsCanvas = section.kind === "chips" || section.kind === "scenes";
    const renderer = needsCanvas ? L.canvas({ pane: "dl-" + section.kind, padding: 0.4 }) : null;
    const entries = (switches[section.kind] = []);
    const list = element("div");
    const all = checkbox(section.title, on, () => {
      entries.forEach((entry) => { entry.box.checked = all.checked; toggle(entry); });
      update();
    });
    section.groups.forEach((group) => {
      const name = group.name || "all";
      const entry = { name, layer: drawGroup(section.kind, group, renderer), items: group.items };
      entry.box = checkbox(section.title + ": " + name, on, () => { toggle(entry); update(); });
      entries.push(entry);
      add(list, add(element("label"), entry.box, document.createTextNode(name)));
      toggle(entry);
    });
    function update() {
      const number = entries.filter((entry) => entry.box.checked).length;
      all.checked = number > 0;
      all.indeterminate = number > 0 && number < entries.length;
      restyleChips();
      showScale();
    }
    const summary = add(element("summary"), all, element("span", "", section.title));
    all.addEventListener("click", (event) => event.stopPropagation());
    if (entries.length > 1) add(summary, element("small", "", String(entries.length)));
    const details = add(element("details", "dl-layer"), summary);
    return entries.length > 1 ? add(details, list) : details;
  }

  function slider(panes) {
    const input = element("input");
    Object.assign(input, { type: "range", min: 0, max: 100, value: 85 });
    input.setAttribute("aria-label", "Opacity of the overlays");
    const apply = () => panes.forEach((kind) => { map.getPane("dl-" + kind).style.opacity = input.value / 100; });
    input.addEventListener("input", apply);
    apply();
    return add(element("label", "dl-slider"), document.createTextNode("Overlay opacity"), input);
  }

  function goTo() {
    const section = add(element("section"), element("h2", "", "Go to"));
    const select = element("select");
    select.setAttribute("aria-label", "Go to");
    add(select, new Option("Everything", "-1"));
    data.places.forEach((place, i) => add(select, new Option(place.name || "all", String(i))));
    select.value = String(data.start);
    select.addEventListener("change", () => fit(boundsOf(+select.value), true));
    return add(section, select);
  }

  function boundsOf(place) {
    if (place >= 0) return data.places[place].bounds;
    return data.places.reduce((all, place) => all.extend(place.bounds), L.latLngBounds(data.places[0].bounds));
  }

  function swatches() {
    const used = data.cities.filter((city) => city.chips > 0);
    const list = element("ul", "dl-swatches" + (used.length > 16 ? " long" : ""));
    used.forEach((city) => {
      const mark = element("i");
      mark.style.background = city.colour || fallback;
      const name = element("span", "", city.code);
      name.title = city.code;
      add(list, add(element("li"), mark, name, element("small", "", String(city.chips))));
    });
    if (data.unknown) add(list, unknownSwatch());
    return list;
  }

  function unknownSwatch() {
    const mark = element("i");
    mark.style.background = `repeating-linear-gradient(135deg, ${edge} 0 1px, ${data.unknown.colour} 1px 4px)`;
    const name = element("span", "", "unknown to the model");
    return add(element("li", "dl-unknown"), mark, name, element("small", "", String(data.unknown.chips)));
  }

  function scaleBar(title, ramp, numbers) {
    const bar = element("b");
    bar.style.background = "linear-gradient(90deg, " + ramp.join(", ") + ")";
    const caption = element("span", "", title);
    const line = add(element("p"), ...numbers.map((text) => element("span", "", text)));
    return { caption, line, box: add(element("div", "dl-scale"), caption, bar, line) };
  }

  // every file has its own scale: the numbers are those of the picture nearest to the middle of the map
  function showScale() {
    if (!scaleText) return;
    const centre = map.getCenter();
    let best = null;
    (switches.saliency || []).filter((entry) => entry.box.checked).forEach((entry) => entry.items.forEach((item) => {
      const distance = centre.distanceTo(L.latLngBounds(item.bounds).getCenter());
      if (item.limit && (!best || distance < best.distance)) best = { distance, item };
    }));
    scaleText.box.hidden = !best;
    if (!best) return;
    scaleText.caption.textContent = best.item.title;
    const limit = number(best.item.limit);
    scaleText.line.children[0].textContent = "−" + limit + " against";
    scaleText.line.children[2].textContent = "+" + limit + " for";
  }

  function legend(kinds) {
    const section = add(element("section"), element("h2", "", "Legend"));
    if (data.unknown || data.cities.some((city) => city.chips > 0)) add(section, swatches());
    if (kinds.includes("saliency")) {
      scaleText = scaleBar("", data.ramps.saliency, ["", "0", ""]);
      add(section, scaleText.box);
    }
    if (kinds.includes("confidence")) add(section, scaleBar("Confidence", data.ramps.confidence, ["0", "0.5", "1"]).box);
    return section;
  }

  function notes() {
    const section = element("section", "dl-notes");
    data.sections.forEach((part) => part.notes.forEach((note) => add(section, element("p", "", note))));
    return section;
  }

  function summaryText() {
    const sum = (name) => data.places.reduce((total, place) => total + place[name], 0);
    const many = (n, one, more) => n.toLocaleString("en") + " " + (n === 1 ? one : more);
    const parts = [many(data.places.length, "place", "places")];
    if (sum("chips")) parts.push(many(sum("chips"), "chip", "chips"));
    if (sum("known")) parts.push(Math.round((100 * sum("right")) / sum("known")) + " % right");
    if (sum("unknown")) parts.push(shown(sum("unknown") / sum("chips")) + " unknown to the model");
    return parts.join(" · ");
  }

  function panel() {
    const kinds = data.sections.map((section) => section.kind);
    const on = (kind) => !["city", "confidence"].includes(kind) || !kinds.includes("chips");
    const details = element("details");
    details.open = !narrow();
    const head = add(element("summary"), element("h1", "", data.title), element("p", "dl-sum", summaryText()));
    if (data.approximate) {
      const text = "Approximate positions: these scenes lie somewhere in their city. Nothing follows from where they are drawn.";
      add(head, element("p", "dl-vague", text));
    }
    const layers = add(element("section"), element("h2", "", "Layers"));
    data.sections.forEach((section) => add(layers, layerControl(section, on(section.kind))));
    const panes = kinds.filter((kind) => ["saliency", "city", "confidence"].includes(kind));
    if (panes.length) add(layers, slider(panes));
    add(details, head, goTo(), layers, legend(kinds));
    if (data.sections.some((section) => section.notes.length)) add(details, notes());
    const box = add(document.getElementById("dl-panel"), details);
    L.DomEvent.disableClickPropagation(box);
    L.DomEvent.disableScrollPropagation(box);
  }

  map.createPane("dl-grid").style.zIndex = 210;
  Object.keys(depth).forEach((kind) => { map.createPane("dl-" + kind).style.zIndex = depth[kind]; });
  map.createPane("dl-picked").style.zIndex = 460;
  map.getPane("dl-picked").style.pointerEvents = "none";
  map.createPane("dl-places").style.zIndex = 620;
  L.control.scale({ position: "bottomright", imperial: false }).addTo(map);
  fit(boundsOf(data.start), false);
  panel();
  restyleChips();
  dlslicerGraticule(map);
  dlslicerPlaces(map, data, fit);
  map.on("moveend", showScale);
  map.on("popupclose", () => { if (picked) picked.remove(); picked = null; });
  showScale();
  map.getContainer().dataset.ready = "yes";
}
