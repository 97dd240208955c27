/* The card of a chip: its picture, five most likely cities, truth, split, and where it comes from. */
function dlslicerCard(map, data, colour) {
  "use strict";
  const { element, add, button, fit, narrow, percent, still } = dlslicerTools;
  const code = (city) => (data.cities[city] ? data.cities[city].code : "unknown");
  const scenes = new Map(Object.entries(data.scenes || {}));
  const pictures = new Map();
  const pole = L.Projection.SphericalMercator.MAX_LATITUDE;
  const world = [[-pole, -180], [pole, 180]];
  let imagery = null;
  let picked = null;

  (data.sections || []).filter((section) => section.kind === "image").forEach((section) => {
    section.groups.forEach((group) => group.items.forEach((item) => pictures.set(item.scene, item)));
  });

  const corners = (ring) => [0, 2, 4, 6].map((i) => [ring[i], ring[i + 1]]);
  const metres = (lat, lon) => map.options.crs.project(L.latLng(lat, lon));

  // a chip in parts of what lies between two corners, from west to east and from north to south
  function windowOf(bounds, ring) {
    const [low, high] = bounds.map(([lat, lon]) => metres(lat, lon));
    const points = corners(ring).map(([lat, lon]) => metres(lat, lon));
    const across = points.map((p) => (p.x - low.x) / (high.x - low.x));
    const down = points.map((p) => (high.y - p.y) / (high.y - low.y));
    return { left: Math.min(...across), right: Math.max(...across), top: Math.min(...down), bottom: Math.max(...down) };
  }

  function canvasOf(said) {
    const canvas = element("canvas", "dl-thumb");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", said);
    canvas.width = canvas.height = 232;
    return canvas;
  }

  // cropped here, from the picture that the map shows anyway
  function cropped(chip, picture) {
    const cut = windowOf(picture.bounds, chip.ring);
    if (cut.right <= 0 || cut.bottom <= 0 || cut.left >= 1 || cut.top >= 1) return null;
    const canvas = canvasOf("Picture of chip " + chip.id);
    const image = new Image();
    image.onload = () => {
      const [w, h] = [image.naturalWidth, image.naturalHeight];
      const [wide, high] = [(cut.right - cut.left) * w, (cut.bottom - cut.top) * h];
      const scale = 232 / Math.max(wide, high);
      const pen = canvas.getContext("2d");
      pen.imageSmoothingQuality = "high";
      pen.setTransform(scale, 0, 0, scale, (232 - wide * scale) / 2, (232 - high * scale) / 2);
      pen.drawImage(image, cut.left * w, cut.top * h, wide, high, 0, 0, wide, high);
      canvas.dataset.drawn = "yes";
    };
    image.src = picture.src;
    return canvas;
  }

  // from the tiles of the imagery, once they can be read; a chip without any has no picture
  function tiled(chip) {
    const canvas = canvasOf("Imagery under chip " + chip.id);
    const drawn = (any) => { if (any) canvas.dataset.drawn = "yes"; else canvas.remove(); };
    imagery(canvas, windowOf(world, chip.ring)).then(drawn, () => canvas.remove());
    return canvas;
  }

  function thumbnail(chip) {
    if (!chip.ring) return null;
    if (imagery) return tiled(chip);
    return pictures.has(chip.scene) ? cropped(chip, pictures.get(chip.scene)) : null;
  }

  function verdict(chip) {
    if (chip.truth < 0) return element("span", "", "true city not known");
    if (chip.unknown) return element("span", "", "not answered: it is " + code(chip.truth));
    const right = chip.truth === chip.city;
    return element("span", right ? "right" : "wrong", right ? "right" : "wrong: it is " + code(chip.truth));
  }

  function bars(chip) {
    const list = element("ol", "dl-bars");
    chip.top.forEach(([city, share]) => {
      const bar = element("i");
      bar.style.width = 100 * share + "%";
      bar.style.background = colour(city);
      const name = element("span", "", code(city));
      name.title = code(city);
      add(list, add(element("li"), name, add(element("div"), bar), element("small", "", percent(share))));
    });
    return list;
  }

  // site and date of the scene, and its file, where the table of scenes tells them
  function origin(chip) {
    const scene = scenes.get(chip.scene);
    const site = chip.site || (scene && scene.site);
    const line = element("p", "", "chip " + chip.id + " of " + chip.scene);
    add(line, document.createTextNode((site ? ", site " + site : "") + (chip.date ? ", " + chip.date : "")));
    if (!scene || !scene.href) return [line];
    const beyond = window.location.protocol !== "file:" && scene.href.startsWith("../"); // a server shows the run alone
    if (beyond) return [line, element("p", "", "file " + decodeURIComponent(scene.href))];
    const link = element("a", "", "Open the scene's file");
    link.href = scene.href;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    return [line, add(element("p"), link)];
  }

  function card(chip) {
    const nearest = "unknown (nearest: " + code(chip.city) + " " + chip.confidence.toFixed(2) + ")";
    const sure = chip.unknown ? "" : " · confidence " + percent(chip.confidence);
    const line = add(element("p"), verdict(chip), document.createTextNode(sure + " · " + chip.split));
    const text = add(element("div"), element("h3", "", chip.unknown ? nearest : code(chip.city)), line);
    const vague = chip.vague ? element("p", "dl-vague", "approximate position: somewhere in its city") : null;
    const near = () => fit(map, L.latLngBounds(corners(chip.ring)), true);
    const box = add(element("div", "dl-popup"), add(element("div", "dl-head"), thumbnail(chip), text), bars(chip));
    return add(box, ...origin(chip), vague, chip.ring ? button("", "Zoom to this chip", "", near) : null);
  }

  // one card of all chips over a point: those of other dates lie under the one that is seen
  function turning(chips, at, turn) {
    if (chips.length < 2) return null;
    const step = (by, text, said) => button("", text, said, (event) => {
      event.stopPropagation(); // the button is replaced: the map would take this for a click on itself
      turn((at + by + chips.length) % chips.length, said);
    });
    const said = element("span", "", at + 1 + " of " + chips.length + " chips here");
    said.setAttribute("role", "status");
    return add(element("div", "dl-turn"), step(-1, "‹", "Previous chip here"), said, step(1, "›", "Next chip here"));
  }

  function outline(chip) {
    if (picked) picked.remove();
    const line = { pane: "dl-picked", color: "#111", weight: 2, fill: false, interactive: false, dashArray: "4 3" };
    picked = chip.ring ? L.polygon(corners(chip.ring), line).addTo(map) : null;
  }

  function open(chips, where) {
    const room = { autoPanPaddingTopLeft: narrow() ? [16, 16] : [340, 16], autoPan: !still() };
    const popup = L.popup({ ...room, minWidth: 276, maxWidth: 276 }).setLatLng(where);
    const turn = (at, pressed) => {
      const made = card(chips[at]);
      made.prepend(turning(chips, at, turn) || "");
      popup.setContent(made);
      if (!pressed) return;
      outline(chips[at]);
      made.querySelector(`[aria-label="${pressed}"]`).focus();
    };
    turn(0);
    popup.openOn(map); // closes another card first, and with it the outline of its chip
    outline(chips[0]);
    return popup;
  }

  map.on("popupclose", () => { if (picked) picked.remove(); picked = null; });
  return { open, setImagery: (draw) => { imagery = draw; } };
}
