// Draws a frame with boxes, labels, keypoints and skeleton.

/** By class; the first is that of Kiln's reports. */
const COLOURS = ["#ffd21f", "#5fd4ff", "#ff8ad1", "#8dff7a", "#ffab5e", "#c6a8ff"];
const HALO = "rgba(10, 14, 13, 0.72)";

export function colourOf(target) {
  return COLOURS[target % COLOURS.length];
}

/** The name of a class, or its number if it has none. */
export function nameOf(target, labels) {
  return labels.classes[target] ?? `class ${target}`;
}

/**
 * Draws to the whole of a canvas. `scene` holds `bitmap` (or null), `event` and `labels`; boxes
 * and points (null if hidden) are in pixels of the sensor's frame, whatever size its JPEG has. Lines
 * and text scale with `unit`, in pixels of the canvas.
 */
export function drawScene(canvas, scene, unit) {
  const context = canvas.getContext("2d");
  const [width, height] = sizeOf(scene);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (scene.bitmap) {
    context.imageSmoothingQuality = "high";
    context.drawImage(scene.bitmap, 0, 0, canvas.width, canvas.height);
  }
  // From pixels of the frame to pixels of the canvas.
  const toCanvas = (x, y) => [(x * canvas.width) / width, (y * canvas.height) / height];
  for (const each of scene.event.objects) drawObject(context, each, toCanvas, unit, scene.event.skeleton);
  for (const each of scene.event.objects) drawLabel(context, each, toCanvas, unit, scene.labels);
  scene.event.classes.forEach((each, row) => drawClass(context, each, row, unit, scene.labels));
}

/** Width and height of the frame, in the pixels of boxes and points. */
export function sizeOf({ event, bitmap }) {
  const [width, height] = event.resolution;
  if (width > 0 && height > 0) return [width, height];
  return bitmap ? [bitmap.width, bitmap.height] : [1, 1];
}

function drawObject(context, { box, points, target }, toCanvas, unit, skeleton) {
  const [x, y, w, h] = box;
  const [left, top] = toCanvas(x - w / 2, y - h / 2);
  const [right, bottom] = toCanvas(x + w / 2, y + h / 2);
  const outline = new Path2D();
  outline.roundRect(left, top, right - left, bottom - top, 2 * unit);
  const limbs = new Path2D();
  for (const [start, end] of skeleton) {
    if (!points[start] || !points[end]) continue;
    limbs.moveTo(...toCanvas(...points[start]));
    limbs.lineTo(...toCanvas(...points[end]));
  }
  const colour = colourOf(target);
  context.lineCap = context.lineJoin = "round";
  for (const [path, width] of [[outline, 1.8 * unit], [limbs, 2.4 * unit]]) {
    stroke(context, path, HALO, width + 1.6 * unit);
    stroke(context, path, colour, width);
  }
  for (const point of points.filter(Boolean)) drawJoint(context, toCanvas(...point), unit, colour);
}

function drawJoint(context, [x, y], unit, colour) {
  context.beginPath();
  context.arc(x, y, 2.8 * unit, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.strokeStyle = HALO;
  context.lineWidth = unit;
  context.fill();
  context.stroke();
}

/** A class of the whole frame and its score, on a plate in a column from the top left corner. */
function drawClass(context, { score, target }, row, unit, labels) {
  const size = (row === 0 ? 18 : 12.5) * unit;
  const top = row === 0 ? 0 : 18 * unit * 1.5 + (row - 1) * size * 1.5;
  drawPlate(context, `${nameOf(target, labels)} ${Math.round(score)}`, 0, top, size, unit, colourOf(target));
}

/** Class and score on a plate above the box's corner, or inside the box if there is no room. */
function drawLabel(context, { box, score, target }, toCanvas, unit, labels) {
  const [x, y, w, h] = box;
  const size = 12.5 * unit;
  const text = `${nameOf(target, labels)} ${Math.round(score)}`;
  const height = size * 1.5;
  const [left, top] = toCanvas(x - w / 2, y - h / 2);
  drawPlate(context, text, left, top - height >= 0 ? top - height : top, size, unit, colourOf(target));
}

/** Text on a dark plate at a corner, moved so that it lies within the canvas. */
function drawPlate(context, text, left, top, size, unit, colour) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + size * 0.8;
  const height = size * 1.5;
  const plateX = clamp(left, 0, context.canvas.width - width);
  const plateY = clamp(top, 0, context.canvas.height - height);
  context.fillStyle = HALO;
  context.beginPath();
  context.roundRect(plateX, plateY, width, height, 2 * unit);
  context.fill();
  context.fillStyle = colour;
  context.textBaseline = "middle";
  context.fillText(text, plateX + size * 0.4, plateY + height * 0.53);
}

function stroke(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

function clamp(value, least, most) {
  return Math.max(least, Math.min(value, most));
}
