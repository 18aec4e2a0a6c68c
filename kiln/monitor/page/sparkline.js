// A line chart of the last values, from 0 to their maximum.

const KEPT = 150;

export class Sparkline {
  constructor(canvas) {
    this.canvas = canvas;
    this.values = [];
    this.changed = false;
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > KEPT) this.values.shift();
    this.changed = true;
  }

  /** Draws if a value was added since the last time, in the element's colour. */
  draw() {
    if (!this.changed) return;
    this.changed = false;
    const { canvas, values } = this;
    fit(canvas);
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    context.clearRect(0, 0, width, height);
    const line = 1.5 * devicePixelRatio;
    const top = Math.max(...values) * 1.1 || 1;
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = line;
    context.lineJoin = "round";
    context.beginPath();
    // The newest value is at the right edge.
    values.forEach((value, index) => {
      const x = width - ((values.length - 1 - index) * width) / (KEPT - 1);
      context.lineTo(x, height - line - (value / top) * (height - 2 * line));
    });
    context.stroke();
  }
}

/** Gives a canvas as many pixels as it covers on the screen; true if that changed. */
export function fit(canvas) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  const height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (canvas.width === width && canvas.height === height) return false;
  canvas.width = width;
  canvas.height = height;
  return true;
}
