/* How a chip is painted: by predicted city, confidence, error or split. Legend, embedded chips and tiles share it. */
function dlslicerChips(map, data) {
  "use strict";
  const { element } = dlslicerTools;
  const edge = "#4a4f55"; // around what is unknown or pale, and across what is unknown
  const plain = "#7a828a"; // a city without a colour
  const bare = "#ffffff"; // a chip whose true city nobody knows
  const titles = { city: "Predicted city", confidence: "Confidence", error: "Right or wrong", split: "Split" };
  const card = dlslicerCard(map, data, (city) => colour(city));

  function colour(city) {
    return (data.cities[city] && data.cities[city].colour) || plain;
  }

  function verdict(chip) {
    if (chip.unknown) return "unknown";
    if (chip.truth < 0) return "unproven";
    return chip.truth === chip.city ? "right" : "wrong";
  }

  const splits = new Map(Object.entries(data.paints.splits));
  const splitColour = (split) => splits.get(split) || bare;
  const verdicts = { right: data.paints.right, wrong: data.paints.wrong, unproven: bare };

  function along(ramp, share) {
    const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
    const low = Math.min(Math.floor(at), ramp.length - 2);
    const part = (text, i) => parseInt(text.slice(i, i + 2), 16);
    const mixed = [1, 3, 5].map((i) => Math.round(part(ramp[low], i) * (low + 1 - at) + part(ramp[low + 1], i) * (at - low)));
    return "#" + mixed.map((value) => value.toString(16).padStart(2, "0")).join("");
  }

  const fills = {
    city: (chip) => colour(chip.city),
    confidence: (chip) => along(data.ramps.confidence, chip.confidence),
    error: (chip) => verdicts[verdict(chip)],
    split: (chip) => splitColour(chip.split),
  };

  // pale on a pale ground is nothing: its line is dark
  function stroke(fill) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(fill.slice(i, i + 2), 16));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 205 ? edge : fill;
  }

  function paint(chip, mode) {
    const hatch = Boolean(chip.unknown) && (mode === "city" || mode === "error");
    if (hatch) return { fill: data.unknown ? data.unknown.colour : plain, stroke: edge, hatch };
    const fill = fills[mode](chip);
    return { fill, stroke: stroke(fill), hatch };
  }

  // a pattern that a canvas fills with: what is unknown must not differ from a city by its grey alone
  function hatching() {
    const tile = element("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.fillStyle = data.unknown.colour;
    pen.fillRect(0, 0, 8, 8);
    pen.strokeStyle = edge;
    [-8, 0, 8].forEach((x) => { pen.moveTo(x - 1, 9); pen.lineTo(x + 9, -1); });
    pen.stroke();
    return pen.createPattern(tile, "repeat");
  }

  return {
    modes: ["city", "confidence", "error", "split"], titles, edge, bare, verdicts, paint, splitColour,
    pattern: data.unknown ? hatching() : null,
    open: card.open, setImagery: card.setImagery,
  };
}
