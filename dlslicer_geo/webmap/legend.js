/* What the colours mean, in real units, and what on the map is approximate. */
function dlslicerLegend(map, data, chips) {
  "use strict";
  const { element, add } = dlslicerTools;
  const box = element("div");
  const scale = bar("", data.ramps.saliency, ["", "0", ""]);
  const averaged = bar("Confidence, averaged", data.ramps.confidence, ["0", "0.5", "1"]);
  const number = (value) => Number(value.toPrecision(3)).toString();

  function swatch(colour, text, count, hatched) {
    const mark = element("i");
    mark.style.background = hatched ? `repeating-linear-gradient(135deg, ${chips.edge} 0 1px, ${colour} 1px 4px)` : colour;
    const name = element("span", "", text);
    name.title = text;
    const row = add(element("li", hatched ? "dl-unknown" : ""), mark, name);
    return count === undefined ? row : add(row, element("small", "", count.toLocaleString("en")));
  }

  function cities() {
    const used = data.cities.filter((city) => city.chips > 0);
    const rows = used.map((city) => swatch(city.colour || "#7a828a", city.code, city.chips));
    if (data.unknown) rows.push(swatch(data.unknown.colour, "unknown to the model", data.unknown.chips, true));
    return rows;
  }

  function verdicts() {
    const names = { right: "right", wrong: "wrong", unproven: "true city not known" };
    const count = (data.counts && data.counts.error) || {};
    const rows = Object.keys(names).filter((name) => count[name] !== 0 && (name in count || !data.counts))
      .map((name) => swatch(chips.verdicts[name], names[name], count[name]));
    if (data.unknown) rows.push(swatch(data.unknown.colour, "unknown to the model", data.unknown.chips, true));
    return rows;
  }

  function splits() {
    const count = (data.counts && data.counts.split) || {};
    return Object.keys(count).map((name) => swatch(chips.splitColour(name), name, count[name]));
  }

  function bar(title, ramp, numbers) {
    const strip = element("b");
    strip.style.background = "linear-gradient(90deg, " + ramp.join(", ") + ")";
    const caption = element("span", "", title);
    const line = add(element("p"), ...numbers.map((text) => element("span", "", text)));
    return { caption, line, box: add(element("div", "dl-scale"), caption, strip, line) };
  }

  function setMode(mode) {
    box.textContent = "";
    if (mode === "confidence") { add(box, bar("Confidence of the answer", data.ramps.confidence, ["0", "0.5", "1"]).box); return; }
    const rows = { city: cities, error: verdicts, split: splits }[mode]();
    add(box, add(element("ul", "dl-swatches " + (rows.length > 16 ? "long" : mode === "error" ? "wide" : "")), ...rows));
  }

  // every file and depth has its own scale: the numbers are those of the picture nearest to the middle of the map
  function showScale(items, depth) {
    const centre = map.getCenter();
    const found = items.map((item) => {
      const drawn = item.depths ? item.depths.find((one) => one.name === depth) : item;
      return drawn && drawn.limit && { item, limit: drawn.limit, far: centre.distanceTo(L.latLngBounds(item.bounds).getCenter()) };
    }).filter(Boolean).sort((a, b) => a.far - b.far)[0];
    scale.box.hidden = !found;
    if (!found) return;
    scale.caption.textContent = found.item.title + (depth ? ", " + depth : "");
    scale.line.children[0].textContent = "−" + number(found.limit) + " against";
    scale.line.children[2].textContent = "+" + number(found.limit) + " for";
  }

  function approximate(kinds) {
    const said = [];
    const vague = Object.values(data.scenes || {}).some((scene) => scene.vague);
    if (data.approximate || vague) said.push("Dashed outlines: the scene lies somewhere in its city, its position is not known.");
    if (kinds.includes("chips")) said.push("Chips are filled in their middle, one stride wide; a click shows the whole outline.");
    if (kinds.includes("saliency")) {
      const each = data.tiles ? "over all files of a depth" : "in each file and depth";
      said.push("Relevance is blended over overlapping chips. Its scale ends at the 99th percentile of its size " + each + "; what exceeds it has the last colour.");
    }
    if (data.tiles && kinds.includes("image")) {
      said.push("The picture in a chip's card is the imagery of its place: where scenes overlap, it may be of another date.");
    }
    if (!data.tiles && kinds.some((kind) => ["image", "saliency", "city", "confidence"].includes(kind))) {
      said.push("Pictures here are at most 2048 pixels wide; the files have every pixel.");
    }
    return said;
  }

  function section(kinds) {
    const made = add(element("section"), element("h2", "", "Legend"));
    if (kinds.includes("chips")) { setMode("city"); add(made, box); }
    if (kinds.includes("saliency")) add(made, scale.box);
    if (kinds.includes("confidence")) add(made, averaged.box);
    return made;
  }

  function notes(kinds) {
    const said = [...new Set([...approximate(kinds), ...data.sections.flatMap((part) => part.notes)])];
    const made = add(element("section", "dl-notes"), element("h2", "", "What is approximate"));
    return said.length ? add(made, ...said.map((text) => element("p", "", text))) : null;
  }

  return { section, notes, setMode, showScale, showAveraged: (on) => { averaged.box.hidden = !on; } };
}
