// Draws the camera's picture with boxes, labels, keypoints and skeleton.

/** What a model holds for hidden is not drawn, in percent; recordings leave it out too. */
export const VISIBLE = 50;
/** By class; the first is the colour of Kiln's reports. */
const COLOURS = ["#ffd21f", "#5fd4ff", "#ff8ad1", "#8dff7a", "#ffab5e", "#c6a8ff"];
/** Which of COCO's 17 keypoints are joined: for boards whose description does not tell. */
const COCO = [
  [15, 13], [13, 11], [16, 14], [14, 12], [11, 12], [5, 11], [6, 12], [5, 6], [5, 7], [6, 8],
  [7, 9], [8, 10], [1, 2], [0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6],
];
const HALO = "rgba(10, 14, 13, 0.72)";

export function colourOf(target) {
  return COLOURS[target % COLOURS.length];
}

/** The class by name, where the board's description has one. */
export function nameOf(target, labels) {
  return labels.classes[target] ?? `class ${target}`;
}

/**
 * Draws to the whole of a canvas. `scene` holds `bitmap` (or null), `event` and `labels`; boxes
 * and points are in pixels of the sensor's frame, whatever size its JPEG has. Lines and letters are
 * as large as `unit` pixels of the canvas make them.
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
  // A point of the frame, in pixels of the canvas.
  const at = (x, y) => [(x * canvas.width) / width, (y * canvas.height) / height];
  for (const each of scene.event.objects) drawObject(context, each, at, unit, scene.labels);
  for (const each of scene.event.objects) drawLabel(context, each, at, unit, scene.labels);
}

/** Width and height of the frame that the numbers are in. */
export function sizeOf({ event, bitmap }) {
  const [width, height] = event.resolution;
  if (width > 0 && height > 0) return [width, height];
  return bitmap ? [bitmap.width, bitmap.height] : [1, 1];
}

function drawObject(context, { box, points, target }, at, unit, labels) {
  const [x, y, w, h] = box;
  const [left, top] = at(x - w / 2, y - h / 2);
  const [right, bottom] = at(x + w / 2, y + h / 2);
  const outline = new Path2D();
  outline.roundRect(left, top, right - left, bottom - top, 2 * unit);
  const limbs = new Path2D();
  for (const [start, end] of skeletonOf(points, labels)) {
    if (!isSeen(points[start]) || !isSeen(points[end])) continue;
    limbs.moveTo(...at(...points[start]));
    limbs.lineTo(...at(...points[end]));
  }
  const colour = colourOf(target);
  context.lineCap = context.lineJoin = "round";
  for (const [path, width] of [[outline, 1.8 * unit], [limbs, 2.4 * unit]]) {
    stroke(context, path, HALO, width + 1.6 * unit);
    stroke(context, path, colour, width);
  }
  for (const point of points.filter(isSeen)) drawJoint(context, at(...point), unit, colour);
}

function skeletonOf(points, labels) {
  return labels.keypoints.length || points.length !== 17 ? labels.skeleton : COCO;
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

/** Class and score on a plate over the box's corner, or inside it where there is no room over it. */
function drawLabel(context, { box, score, target }, at, unit, labels) {
  const [x, y, w, h] = box;
  const size = 12.5 * unit;
  const text = `${nameOf(target, labels)} ${Math.round(score)}`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + size * 0.8;
  const height = size * 1.5;
  const [left, top] = at(x - w / 2, y - h / 2);
  const plateX = clamp(left, 0, context.canvas.width - width);
  const plateY = clamp(top - height >= 0 ? top - height : top, 0, context.canvas.height - height);
  context.fillStyle = HALO;
  context.beginPath();
  context.roundRect(plateX, plateY, width, height, 2 * unit);
  context.fill();
  context.fillStyle = colourOf(target);
  context.textBaseline = "middle";
  context.fillText(text, plateX + size * 0.4, plateY + height * 0.53);
}

function isSeen(point) {
  return point !== undefined && point[2] >= VISIBLE;
}

function stroke(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

function clamp(value, least, most) {
  return Math.max(least, Math.min(value, most));
}
