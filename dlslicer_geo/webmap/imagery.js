/* Part of the imagery's tiles in, drawn on a canvas out: the picture of a chip where none lies in the page. */
function dlslicerImagery(archive, zooms) {
  "use strict";
  const [first, last] = zooms;
  const side = 256; // pixels along a tile

  // edges of tiles are whole pixels of the canvas, or there would be hairlines between them
  async function drawTile(pen, box, scale, { zoom, x, y }) {
    const found = await archive.getZxy(zoom, x, y);
    if (!found) return false;
    const picture = await createImageBitmap(new Blob([found.data], { type: "image/webp" }));
    const [left, right] = [x, x + 1].map((at) => Math.round((at / 2 ** zoom - box.left) * scale));
    const [top, bottom] = [y, y + 1].map((at) => Math.round((at / 2 ** zoom - box.top) * scale));
    pen.drawImage(picture, left, top, right - left, bottom - top);
    return true;
  }

  // the box is in parts of the world, from west to east and from north to south; says whether anything was there
  return async (canvas, box) => {
    const scale = canvas.width / Math.max(box.right - box.left, box.bottom - box.top);
    const zoom = Math.min(Math.max(Math.ceil(Math.log2(scale / side)), first), last);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.beginPath();
    pen.rect(0, 0, (box.right - box.left) * scale, (box.bottom - box.top) * scale);
    pen.clip();
    const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map((name) => Math.floor(box[name] * 2 ** zoom));
    const drawn = [];
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) drawn.push(drawTile(pen, box, scale, { zoom, x, y }));
    }
    return (await Promise.all(drawn)).includes(true);
  };
}
