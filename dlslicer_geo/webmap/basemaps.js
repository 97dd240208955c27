/* Ground from the network, where there is one and the reader asks for it; until then no request is made. */
function dlslicerBasemaps(map, data) {
  "use strict";
  const { element, add } = dlslicerTools;
  const status = element("p", "dl-status");
  const credit = element("div", "dl-credit");
  let layer = null;

  function thank(basemap) {
    credit.textContent = "";
    credit.hidden = !basemap;
    if (!basemap) return;
    const named = element(basemap.link ? "a" : "span", "", basemap.attribution);
    if (basemap.link) Object.assign(named, { href: basemap.link, target: "_blank", rel: "noopener noreferrer" });
    add(credit, named);
  }

  function fail() {
    status.textContent = "No network: this ground cannot be loaded.";
  }

  function choose(basemap) {
    if (layer) layer.remove();
    layer = null;
    status.textContent = "";
    thank(basemap);
    if (!basemap) return;
    if (navigator.onLine === false) { fail(); return; }
    layer = L.tileLayer(basemap.url, { pane: "dl-ground", maxZoom: 21, maxNativeZoom: basemap.deepest });
    layer.once("tileerror", fail);
    layer.addTo(map);
  }

  function radio(text, basemap, on) {
    const input = element("input");
    Object.assign(input, { type: "radio", name: "dl-ground", checked: on });
    input.addEventListener("change", () => choose(basemap));
    return add(element("label", "dl-one"), input, element("span", "", text));
  }

  function section() {
    if (!data.basemaps.length) return null;
    status.setAttribute("role", "status");
    credit.hidden = true;
    add(map.getContainer(), credit);
    const set = add(element("fieldset"), element("legend", "", "Ground"), radio("Scenes only", null, true));
    data.basemaps.forEach((basemap) => add(set, radio(basemap.title + " (online)", basemap, false)));
    return add(element("section"), set, status);
  }

  return { section };
}
