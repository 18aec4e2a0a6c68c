// The page: shows the state and events of the server, and sends it requests of the user.

import { connect } from "./live.js";
import { colourOf, drawScene, nameOf, sizeOf } from "./scene.js";
import { fit, Sparkline } from "./sparkline.js";

const element = (id) => document.getElementById(id);
const canvas = element("frame");
const TIMES = ["pre", "inference", "post"];
/** The list has room for so many, so that what is below stays in place. */
const MAX_LISTED = 4;
/** A slider that was moved keeps its value until the board has had time to apply it. */
const SLIDER_HOLD_MS = 800;
const CONNECTION_TEXT = {
  live: "Live",
  paused: "Paused",
  disconnected: "Board disconnected, reconnecting",
  offline: "Kiln has ended, or cannot be reached",
};
const COVER_TEXT = {
  live: "Waiting for the first frame",
  paused: "Paused",
  disconnected: "The board is disconnected",
  offline: "No connection to Kiln",
};

let state = null;
/** The newest event with its JPEG, if it is not drawn yet. */
let newest = null;
/** What is on the canvas: event, bitmap and labels. */
let scene = null;
let isDecoding = false;
const sparklines = Object.fromEntries(
  ["fps", ...TIMES].map((name) => [name, new Sparkline(element(`${name}-spark`))]),
);

const send = connect({ onState, onEvent, onClose: () => showConnection("offline", "") });

function onState(message) {
  state = message;
  showConnection(state.connection, state.note);
  const { device } = state;
  setText("model", device.labels.name || "A model without a name");
  setText("on", `on ${device.board}`);
  document.title = `${device.labels.name || device.board}, Kiln monitor`;
  setText("firmware", device.firmware);
  setText("port", device.port);
  setText("events", state.events.toLocaleString("en"));
  setText("lost", state.lost.toLocaleString("en"));
  setText("skipped", state.skipped.toLocaleString("en"));
  setText("fps", state.connection === "live" ? state.fps.toFixed(1) : "–");
  sparklines.fps.add(state.fps);
  setText("pause", state.paused ? "Resume" : "Pause");
  for (const slider of Object.values(sliders)) slider.update(state);
  showCamera(device.camera);
  showRecording(state.recording);
}

function onEvent(event, jpeg) {
  newest = { event, jpeg, labels: state.device.labels };
  TIMES.forEach((name, index) => sparklines[name].add(event.perf[index]));
}

function showConnection(connection, note) {
  document.body.dataset.connection = connection;
  setText("connection", CONNECTION_TEXT[connection]);
  setText("note", note);
  setText("cover", COVER_TEXT[connection]);
}

/** Offers the camera's modes, if there is a choice. */
function showCamera({ current, modes }) {
  const entries = Object.entries(modes);
  const select = element("camera");
  element("camera-row").hidden = entries.length < 2;
  const shown = JSON.stringify(entries);
  if (select.dataset.modes !== shown) {
    select.dataset.modes = shown;
    select.replaceChildren(...entries.map(([mode, words]) => new Option(words, mode)));
  }
  if (document.activeElement !== select) select.value = String(current);
}

function showRecording({ running, folder, task, camera, images, objects, note }) {
  const count = `${counted(images, "image")}, ${counted(objects, "object")}`;
  document.body.dataset.recording = running;
  element("record").setAttribute("aria-pressed", running);
  setText("record-label", running ? `Stop recording (${images.toLocaleString("en")})` : "Record");
  let text = "";
  if (running) text = `Recording to ${folder}`;
  else if (note) text = `The recording ended: ${note}`;
  else if (images) text = `Recorded ${count}. Train with it: kiln build --task ${task} --data ${folder} --camera ${camera}`;
  else if (folder) text = "Nothing was recorded: no image arrived.";
  setText("recording", text);
}

function counted(number, noun) {
  const ending = noun.endsWith("s") ? "es" : "s";
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : ending}`;
}

/** Sets a text if it has changed, so that screen readers do not repeat it. */
function setText(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}

// Drawing: once for each frame of the screen, and only the newest event.

function refresh() {
  const resized = fitCanvas();
  if (newest && !isDecoding) decode(newest);
  else if (resized && scene) draw();
  for (const sparkline of Object.values(sparklines)) sparkline.draw();
  requestAnimationFrame(refresh);
}

async function decode(next) {
  newest = null;
  isDecoding = true;
  try {
    const blob = next.jpeg && new Blob([next.jpeg], { type: "image/jpeg" });
    paint({ ...next, bitmap: blob && (await createImageBitmap(blob)) });
  } catch {
    // The line has no checksum, so an image may arrive damaged. Its detections are shown all the same.
    paint({ ...next, bitmap: null });
  } finally {
    isDecoding = false;
  }
}

function paint(next) {
  scene?.bitmap?.close();
  scene = next;
  document.body.dataset.drawn = next.event.number;
  element("snapshot").disabled = false;
  fitCanvas();
  draw();
  TIMES.forEach((name, index) => setText(name, shownTime(next.event.perf[index])));
  listObjects(next);
}

/** Gives the canvas the frame's shape and the screen's pixels; true if its size changed. */
function fitCanvas() {
  if (scene) {
    const [width, height] = sizeOf(scene);
    canvas.style.setProperty("--shape", width / height);
  }
  return fit(canvas);
}

/** The thickness of lines for a width in CSS pixels. */
function unitOf(cssPixels) {
  return Math.max(0.85, Math.min(cssPixels / 560, 1.25));
}

function draw() {
  drawScene(canvas, scene, unitOf(canvas.clientWidth) * devicePixelRatio);
}

function shownTime(milliseconds) {
  return milliseconds < 10 ? milliseconds.toFixed(1).replace(".0", "") : milliseconds.toFixed(0);
}

function listObjects({ event, labels }) {
  const objects = [...event.objects, ...event.classes];
  const noun = event.classes.length ? "class" : "object";
  setText("found-count", objects.length ? counted(objects.length, noun) : "nothing");
  const best = objects.sort((one, other) => other.score - one.score).slice(0, MAX_LISTED);
  element("found").replaceChildren(...best.map((each) => listItem(each, labels)));
}

function listItem({ target, score }, labels) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  const swatch = document.createElement("i");
  const percent = document.createElement("b");
  swatch.style.background = colourOf(target);
  name.append(swatch, nameOf(target, labels));
  percent.textContent = `${Math.round(score)} %`;
  item.append(name, percent);
  return item;
}

// Requests of the user

class Slider {
  constructor(name) {
    this.name = name;
    this.input = element(name);
    this.movedAt = -Infinity;
    this.input.addEventListener("input", () => this.move());
  }

  move() {
    this.movedAt = performance.now();
    setText(`${this.name}-value`, `${this.input.value} %`);
    send({ action: this.name, value: this.input.valueAsNumber });
  }

  update(message) {
    const value = message.thresholds[this.name];
    this.input.disabled = value === null;
    if (value === null || performance.now() - this.movedAt < SLIDER_HOLD_MS) return;
    this.input.value = value;
    setText(`${this.name}-value`, `${value} %`);
  }
}

const sliders = { score: new Slider("score"), iou: new Slider("iou") };

function togglePause() {
  if (state) send({ action: state.paused ? "resume" : "pause" });
}

function toggleRecording() {
  if (state) send({ action: state.recording.running ? "stop" : "record" });
}

/** Saves the frame, at its own size or larger, with what is drawn over it. */
async function saveSnapshot() {
  if (!scene) return;
  const [width, height] = sizeOf(scene);
  const scale = Math.max(1, Math.round(960 / width));
  const copy = new OffscreenCanvas(width * scale, height * scale);
  drawScene(copy, scene, unitOf(copy.width));
  const link = document.createElement("a");
  link.download = `${scene.labels.name || "snapshot"}-${scene.event.number}.png`;
  link.href = URL.createObjectURL(await copy.convertToBlob({ type: "image/png" }));
  link.click();
  URL.revokeObjectURL(link.href);
  setText("message", `Saved ${link.download}`);
}

function toggleHelp() {
  const help = element("help");
  if (help.open) help.close();
  else help.showModal();
}

const KEYS = { " ": togglePause, s: saveSnapshot, r: toggleRecording, "?": toggleHelp };

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  // Keys choose from a list that has the focus.
  if (event.target instanceof HTMLSelectElement) return;
  // Space on a button presses that button.
  if (event.key === " " && event.target instanceof HTMLButtonElement) return;
  const action = KEYS[event.key.toLowerCase()];
  if (!action || (element("help").open && action !== toggleHelp)) return;
  event.preventDefault();
  action();
}

element("pause").addEventListener("click", togglePause);
element("snapshot").addEventListener("click", saveSnapshot);
element("record").addEventListener("click", toggleRecording);
element("keys").addEventListener("click", toggleHelp);
element("camera").addEventListener("change", ({ target }) => {
  send({ action: "camera", value: Number(target.value) });
  target.blur();
});
document.addEventListener("keydown", press);
requestAnimationFrame(refresh);
