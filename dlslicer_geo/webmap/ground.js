/* What lies under and over the layers of a dlslicer_geo map: degrees for a sense of place, and the places' names. */
const dlslicerTools = {
  narrow: () => window.matchMedia("(max-width: 640px)").matches,

  still: () => window.matchMedia("(prefers-reduced-motion: reduce)").matches,

  element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  },

  add(parent, ...children) {
    children.filter(Boolean).forEach((child) => parent.appendChild(child));
    return parent;
  },

  button(className, text, label, press) {
    const made = dlslicerTools.element("button", className, text);
    made.type = "button";
    if (label) made.setAttribute("aria-label", label);
    made.addEventListener("click", press);
    return made;
  },

  percent: (share) => (share > 0 && share < 0.005 ? "< 1" : Math.round(100 * share)) + "\u00a0%",

  // on a phone the panel lies along the lower edge, as high as its heading
  sheet: () => document.querySelector("#dl-panel summary").offsetHeight,

  // what is fitted must not end up under the panel
  fit(map, bounds, animate) {
    const padding = dlslicerTools.narrow()
      ? { paddingTopLeft: [28, 56], paddingBottomRight: [28, dlslicerTools.sheet() + 28] }
      : { paddingTopLeft: [348, 40], paddingBottomRight: [64, 40] };
    if (animate && !dlslicerTools.still()) map.flyToBounds(bounds, { ...padding, maxZoom: 18, duration: 0.9 });
    else map.fitBounds(bounds, { ...padding, maxZoom: 18, animate: false });
  },
};

/* A name and a dot where the chips of a place are too small to see. */
function dlslicerPlaces(map, data) {
  "use strict";
  const { element, add, narrow, fit } = dlslicerTools;
  const layer = L.layerGroup().addTo(map);
  const colours = new Map(data.cities.map((city) => [city.code, city.colour]));

  function size(bounds) {
    const [a, b] = [bounds.getNorthEast(), bounds.getSouthWest()].map((corner) => map.latLngToLayerPoint(corner));
    return Math.max(Math.abs(a.x - b.x), Math.abs(a.y - b.y));
  }

  function redraw() {
    layer.clearLayers();
    const small = data.places
      .map((place) => ({ ...place, bounds: L.latLngBounds(place.bounds) }))
      .filter((place) => size(place.bounds) < 60);
    small.forEach((place) => { place.at = map.latLngToContainerPoint(place.bounds.getCenter()); });
    const taken = small.map((place) => [place.at.x - 9, place.at.y - 9, place.at.x + 9, place.at.y + 9]);
    small.forEach((place) => draw(place, taken));
  }

  function draw(place, taken) {
    const [dot, name] = [element("i"), element("span", "", place.name)];
    if (colours.get(place.name)) dot.style.background = colours.get(place.name);
    const shares = [[place.right, place.known, "right"], [place.unknown, place.unknown && place.chips, "unknown"]];
    const said = shares.filter(([, all]) => all).map(([part, all, what]) => Math.round((100 * part) / all) + " % " + what);
    if (said.length) add(name, element("small", "", said.join(" · ")));
    const box = add(element("div", "dl-place"), dot, name);
    box.title = place.name;
    const icon = L.divIcon({ className: "", html: box, iconSize: [0, 0] });
    const marker = L.marker(place.bounds.getCenter(), { icon, pane: "dl-places", alt: place.name, keyboard: true });
    marker.on("click", () => fit(map, place.bounds, true));
    layer.addLayer(marker);
    label(name, place.at, taken);
  }

  // the first of eight positions around the dot that is on the map and covers nothing; none: the dot alone
  function label(name, at, taken) {
    const [w, h] = [name.offsetWidth, name.offsetHeight];
    const tries = [
      [12, -h / 2], [-12 - w, -h / 2], [-w / 2, -14 - h], [-w / 2, 14], [8, -10 - h], [8, 10], [-8 - w, -10 - h], [-8 - w, 10],
    ];
    const view = map.getSize();
    const left = narrow() ? 0 : 324; // the panel
    const free = tries.find(([dx, dy]) => {
      const [x, y] = [at.x + dx, at.y + dy];
      if (x < left || x + w > view.x || y < 0 || y + h > view.y) return false;
      return taken.every((other) => x > other[2] || x + w < other[0] || y > other[3] || y + h < other[1]);
    });
    if (!free) { name.style.display = "none"; return; }
    name.style.left = free[0] + "px";
    name.style.top = free[1] + "px";
    taken.push([at.x + free[0] - 4, at.y + free[1] - 3, at.x + free[0] + w + 4, at.y + free[1] + h + 3]);
  }

  map.on("moveend", redraw);
  redraw();
}

/* There are no tiles, so degrees give the sense of place. */
function dlslicerGraticule(map) {
  "use strict";
  const { element, add, narrow, sheet } = dlslicerTools;
  const layer = L.layerGroup().addTo(map);
  const steps = [30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005];

  function degree(value, step, letters, at, offset) {
    const decimals = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
    const text = Math.abs(value).toFixed(decimals) + "° " + (value < 0 ? letters[1] : letters[0]);
    const box = add(element("div"), element("span", "", text));
    Object.assign(box.firstChild.style, offset);
    const icon = L.divIcon({ className: "dl-degree", html: box, iconSize: [0, 0] });
    layer.addLayer(L.marker(at, { pane: "dl-grid", interactive: false, keyboard: false, icon }));
  }

  function redraw() {
    layer.clearLayers();
    const [view, size] = [map.getBounds(), map.getSize()];
    const wide = Math.min(view.getEast() - view.getWest(), 360);
    const step = steps.find((s) => wide / s >= (narrow() ? 2.5 : 5)) || steps[steps.length - 1];
    const corner = map.containerPointToLatLng([size.x - 6, 4]);
    const line = { pane: "dl-grid", color: "#d3d6d2", weight: 1, interactive: false };
    for (let k = Math.ceil(view.getWest() / step); k * step < view.getEast(); k++) {
      layer.addLayer(L.polyline([[view.getSouth(), k * step], [view.getNorth(), k * step]], line));
      const x = map.latLngToContainerPoint([corner.lat, k * step]).x;
      if (x < size.x - 130) degree(((k * step + 540) % 360) - 180, step, "EW", [corner.lat, k * step], { left: "5px", top: 0 });
    }
    for (let k = Math.ceil(view.getSouth() / step); k * step < view.getNorth(); k++) {
      layer.addLayer(L.polyline([[k * step, view.getWest()], [k * step, view.getEast()]], line));
      const y = map.latLngToContainerPoint([k * step, corner.lng]).y;
      // the zoom buttons stand above, the scale bar below
      if (y > 72 && y < size.y - (narrow() ? sheet() + 50 : 52)) degree(k * step, step, "NS", [k * step, corner.lng], { right: "4px", top: "2px" });
    }
  }

  map.on("moveend", redraw);
  redraw();
}
