/* Finds a place, city, site or scene by its name, and goes from place to place. */
function dlslicerSearch(map, data) {
  "use strict";
  const { element, add, button, fit } = dlslicerTools;
  const listed = 400; // suggestions; whatever else is typed is found too
  const status = element("p", "dl-status");
  const found = new Map(); // lower case → {text, bounds}
  const everything = data.places.reduce((all, place) => all.extend(place.bounds), L.latLngBounds(data.places[0].bounds));
  let here = data.start;
  let sought = ""; // a field tells of its change once more when it is left

  function note(text, bounds) {
    if (!text) return;
    const key = text.toLowerCase();
    if (!found.has(key)) found.set(key, { text, bounds: L.latLngBounds(bounds) });
    else if (!data.places.some((place) => place.name === text)) found.get(key).bounds.extend(bounds);
  }

  function gather() {
    const scenes = Object.entries(data.scenes || {}).filter(([, scene]) => scene.bounds);
    data.places.forEach((place) => note(place.name, place.bounds));
    scenes.forEach(([, scene]) => { note(scene.city, scene.bounds); note(scene.name, scene.bounds); });
    scenes.forEach(([, scene]) => { if (scene.site) note([scene.city, scene.site].filter(Boolean).join(", "), scene.bounds); });
    scenes.forEach(([name, scene]) => note(name, scene.bounds));
  }

  // the whole name first, then how it begins, then what it holds
  function match(text) {
    const typed = text.trim().toLowerCase();
    if (!typed) return null;
    const keys = [...found.keys()];
    const key = found.has(typed) ? typed : keys.find((one) => one.startsWith(typed)) || keys.find((one) => one.includes(typed));
    return key === undefined ? null : found.get(key);
  }

  function say(text) {
    status.textContent = text;
  }

  function seek(input) {
    sought = input.value;
    if (!input.value.trim()) return;
    const hit = match(input.value);
    if (!hit) { say("Nothing here is called “" + input.value.trim() + "”."); return; }
    here = data.places.findIndex((place) => place.name === hit.text);
    say(hit.text);
    fit(map, hit.bounds, true);
  }

  function jump(step) {
    const number = data.places.length;
    here = here < 0 ? (step > 0 ? 0 : number - 1) : (here + step + number) % number;
    say((data.places[here].name || "all") + ", " + (here + 1) + " of " + number);
    fit(map, data.places[here].bounds, true);
  }

  function suggestions() {
    const list = element("datalist");
    list.id = "dl-names";
    return add(list, ...[...found.values()].slice(0, listed).map(({ text }) => new Option(text, text)));
  }

  function section() {
    gather();
    status.setAttribute("role", "status");
    const input = element("input");
    Object.assign(input, { type: "search", placeholder: "City, site or scene", autocomplete: "off" });
    input.setAttribute("aria-label", "Search");
    input.setAttribute("list", "dl-names");
    input.addEventListener("change", () => { if (input.value !== sought) seek(input); });
    input.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); seek(input); } });
    const all = () => { here = -1; say("Everything"); fit(map, everything, true); };
    const row = add(element("div", "dl-jump"), button("", "‹", "Previous place", () => jump(-1)),
      button("", "All places", "", all), button("", "›", "Next place", () => jump(1)));
    const made = add(element("section"), element("h2", "", "Go to"), input, suggestions());
    return add(made, data.places.length > 1 ? row : null, status);
  }

  return { section, everything };
}
