/* The panel's switches: which layers are shown, how chips are coloured, how deep and how clear the overlays are. */
function dlslicerPanel(map, data, drawn, legend) {
  "use strict";
  const { element, add } = dlslicerTools;
  const under = ["saliency", "city", "confidence"]; // what must be seen through the chips
  const switches = {}; // kind → [{name, items, layer, box}]
  const depths = [...new Set(items("saliency").flatMap((item) => (item.depths || []).map((depth) => depth.name)))];
  let depth = depths[depths.length - 1];

  function items(kind) {
    return drawn.sections.filter((section) => section.kind === kind).flatMap((section) => section.groups.flatMap((one) => one.items));
  }

  function checkbox(label, on, change) {
    const box = element("input");
    Object.assign(box, { type: "checkbox", checked: on });
    box.setAttribute("aria-label", label);
    box.addEventListener("change", change);
    return box;
  }

  const toggle = (entry) => (entry.box.checked ? entry.layer.addTo(map) : entry.layer.remove());

  function shown(kind) {
    return (switches[kind] || []).filter((entry) => entry.box.checked);
  }

  // chips and scale follow what is switched on
  function refresh() {
    drawn.setUnder(under.some((kind) => shown(kind).length > 0));
    legend.showAveraged(shown("confidence").length > 0);
    legend.showScale(shown("saliency").flatMap((entry) => entry.items), depth);
  }

  function layerControl(section, on) {
    const entries = (switches[section.kind] = section.groups.map((group) => ({ ...group, name: group.name || "all" })));
    const all = checkbox(section.title, on, () => {
      entries.forEach((entry) => { entry.box.checked = all.checked; toggle(entry); });
      update();
    });
    const list = element("div");
    entries.forEach((entry) => {
      entry.box = checkbox(section.title + ": " + entry.name, on && !entry.off, () => { toggle(entry); update(); });
      add(list, add(element("label"), entry.box, document.createTextNode(entry.name)));
      toggle(entry);
    });
    function update() {
      const number = entries.filter((entry) => entry.box.checked).length;
      all.checked = number > 0;
      all.indeterminate = number > 0 && number < entries.length;
      refresh();
    }
    if (entries.some((entry) => entry.off)) all.indeterminate = on;
    if (entries.length === 1) return add(element("label", "dl-one"), all, element("span", "", section.title));
    const opener = add(element("summary"), element("span", "", section.title), element("small", "", String(entries.length)));
    return add(element("div", "dl-many"), all, add(element("details", "dl-layer"), opener, list));
  }

  function choice(label, names, start, change) {
    const select = element("select");
    names.forEach(([value, text]) => add(select, new Option(text, value)));
    select.value = start;
    select.addEventListener("change", () => change(select.value));
    return add(element("label", "dl-choice"), element("span", "", label), select);
  }

  function slider(kinds) {
    const input = element("input");
    Object.assign(input, { type: "range", min: 0, max: 100, value: 85 });
    input.setAttribute("aria-label", "Opacity of the overlays");
    const said = element("output");
    const apply = () => {
      kinds.forEach((kind) => { map.getPane("dl-" + kind).style.opacity = input.value / 100; });
      said.textContent = input.value + "\u00a0%";
    };
    input.addEventListener("input", apply);
    apply();
    return add(element("label", "dl-slider"), element("span", "", "Overlay opacity"), input, said);
  }

  function setDepth(name) {
    depth = name;
    drawn.setDepth(name);
    refresh();
  }

  function section(chips) {
    const kinds = drawn.sections.map((part) => part.kind);
    const on = (kind) => !["city", "confidence"].includes(kind) || !kinds.includes("chips");
    const made = add(element("section"), element("h2", "", "Layers"));
    drawn.sections.filter((part) => part.groups.length).forEach((part) => add(made, layerControl(part, on(part.kind))));
    const setMode = (mode) => { drawn.setMode(mode); legend.setMode(mode); };
    const modes = chips.modes.map((mode) => [mode, chips.titles[mode]]);
    if (kinds.includes("chips")) add(made, choice("Colour chips by", modes, "city", setMode));
    if (depths.length > 1) add(made, choice("Depth of relevance", depths.map((name) => [name, name]), depth, setDepth));
    const overlays = kinds.filter((kind) => !["chips", "scenes", "image"].includes(kind));
    return overlays.length ? add(made, slider(overlays)) : made;
  }

  return { section, refresh };
}
