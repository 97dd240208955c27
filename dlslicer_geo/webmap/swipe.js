/* Imagery on the left, overlays on the right of a handle that mouse, finger and arrow keys move. */
function dlslicerSwipe(map, kinds) {
  "use strict";
  const { element, add, narrow } = dlslicerTools;
  const handle = element("div", "dl-swipe");
  let share = 0.5;
  let on = false;

  // panes have no size of their own and move with the map, so the clip is drawn in layer points
  function clip() {
    const size = map.getSize();
    const [low, high] = [[share * size.x, 0], [size.x, size.y]].map((corner) => map.containerPointToLayerPoint(corner));
    const path = `polygon(${low.x}px ${low.y}px, ${high.x}px ${low.y}px, ${high.x}px ${high.y}px, ${low.x}px ${high.y}px)`;
    kinds.forEach((kind) => { map.getPane("dl-" + kind).style.clipPath = on ? path : ""; });
    handle.style.left = share * size.x + "px";
    handle.setAttribute("aria-valuenow", String(Math.round(100 * share)));
  }

  function move(value) {
    share = Math.min(Math.max(value, 0), 1);
    clip();
  }

  function drag(event) {
    move((event.clientX - map.getContainer().getBoundingClientRect().left) / map.getSize().x);
  }

  function press(event) {
    const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    move(share + steps[event.key]);
  }

  function listen() {
    handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) drag(event); });
    handle.addEventListener("keydown", press);
    L.DomEvent.disableClickPropagation(handle);
    map.on("move zoomend viewreset resize", clip);
  }

  // it starts in the middle of what the panel leaves free
  function set(value) {
    on = value;
    handle.hidden = !on;
    const free = narrow() ? 0 : 324;
    if (on) share = (free + map.getSize().x) / 2 / map.getSize().x;
    clip();
  }

  function control() {
    const attributes = { role: "slider", tabindex: "0", "aria-label": "Swipe between imagery and overlays", "aria-valuemin": "0", "aria-valuemax": "100" };
    Object.entries(attributes).forEach(([name, value]) => handle.setAttribute(name, value));
    add(map.getContainer(), add(handle, element("i", "", "◂ ▸")));
    handle.hidden = true;
    listen();
    const box = element("input");
    box.type = "checkbox";
    box.addEventListener("change", () => set(box.checked));
    return add(element("label", "dl-one"), box, element("span", "", "Swipe: imagery left, overlays right"));
  }

  return { control };
}
