// The page: shows what the server says, and tells it what the user wants.

import { connect } from "./live.js";
import { colourOf, drawScene, nameOf, sizeOf } from "./scene.js";
import { fit, Sparkline } from "./sparkline.js";

const element = (id) => document.getElementById(id);
const picture = element("picture");
const TIMES = ["pre", "inference", "post"];
/** There is always room for so many, lest what is below jumps with every frame. */
const MAX_LISTED = 4;
/** A slider that was moved shows what was asked for, until the board has had time to answer. */
const SLIDER_REST_MS = 800;
const WORDS = {
  watching: "Watching",
  paused: "Paused",
  away: "Board away, reconnecting",
  gone: "Kiln has ended, or cannot be reached",
};
const COVERS = {
  watching: "Waiting for the first picture",
  paused: "Paused",
  away: "The board is away",
  gone: "No connection to Kiln",
};

let state = null;
/** The newest event with its JPEG, drawn or not; nothing older is kept. */
let newest = null;
/** What is on the canvas: its event, bitmap and labels. */
let scene = null;
let isDecoding = false;
const sparklines = Object.fromEntries(
  ["fps", ...TIMES].map((name) => [name, new Sparkline(element(`${name}-spark`))]),
);

const send = connect({ onState: takeState, onEvent: takeEvent, onGone: () => show("gone", "") });

function takeState(message) {
  state = message;
  show(state.connection, state.note);
  const { about } = state;
  put("model", about.labels.name || "A model without a name");
  put("on", `on ${about.board}`);
  document.title = `${about.labels.name || about.board}, Kiln monitor`;
  put("firmware", about.firmware);
  put("port", about.port);
  put("events", state.events.toLocaleString("en"));
  put("lost", state.lost.toLocaleString("en"));
  put("skipped", state.skipped.toLocaleString("en"));
  put("fps", state.connection === "watching" ? state.fps.toFixed(1) : "–");
  sparklines.fps.add(state.fps);
  put("pause", state.paused ? "Go on" : "Pause");
  for (const slider of Object.values(sliders)) slider.take(state);
  showRecording(state.recording);
}

function takeEvent(event, jpeg) {
  newest = { event, jpeg, labels: state.about.labels };
  TIMES.forEach((name, index) => sparklines[name].add(event.perf[index]));
}

/** The state of the connection in words, once each time that it changes. */
function show(connection, note) {
  document.body.dataset.connection = connection;
  put("connection", WORDS[connection]);
  put("note", note);
  put("cover", COVERS[connection]);
}

function showRecording({ running, folder, task, pictures, objects, note }) {
  const count = `${counted(pictures, "picture")}, ${counted(objects, "object")}`;
  document.body.dataset.recording = running;
  element("record").setAttribute("aria-pressed", running);
  put("record-label", running ? `Stop recording (${pictures.toLocaleString("en")})` : "Record");
  let text = "";
  if (running) text = `Recording to ${folder}`;
  else if (note) text = `The recording ended: ${note}`;
  else if (pictures) text = `Recorded ${count}. Train with it: kiln build --task ${task} --data ${folder}`;
  else if (folder) text = "Nothing was recorded: no picture came.";
  put("recording", text);
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Sets a text if it is another one: what is read aloud is not said twice. */
function put(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}

// Drawing: once for each frame of the screen, and only what is newest then.

function frame() {
  const resized = fitPicture();
  if (newest && !isDecoding) decode(newest);
  else if (resized && scene) draw();
  for (const sparkline of Object.values(sparklines)) sparkline.draw();
  requestAnimationFrame(frame);
}

async function decode(next) {
  newest = null;
  isDecoding = true;
  try {
    const blob = next.jpeg && new Blob([next.jpeg], { type: "image/jpeg" });
    paint({ ...next, bitmap: blob && (await createImageBitmap(blob)) });
  } catch {
    // The line has no checksum: a picture may arrive torn. Its detections are shown all the same.
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
  fitPicture();
  draw();
  TIMES.forEach((name, index) => put(name, shownTime(next.event.perf[index])));
  listObjects(next);
}

/** The canvas has the frame's shape, and the pixels of the screen; true if that changed. */
function fitPicture() {
  if (scene) {
    const [width, height] = sizeOf(scene);
    picture.style.setProperty("--shape", width / height);
  }
  return fit(picture);
}

/** How thick a line is, in pixels of the canvas: a little more in a large picture. */
function unitOf(cssPixels) {
  return Math.max(0.85, Math.min(cssPixels / 560, 1.25));
}

function draw() {
  drawScene(picture, scene, unitOf(picture.clientWidth) * devicePixelRatio);
}

function shownTime(milliseconds) {
  return milliseconds < 10 ? milliseconds.toFixed(1).replace(".0", "") : milliseconds.toFixed(0);
}

function listObjects({ event, labels }) {
  const { objects } = event;
  put("found-count", objects.length ? counted(objects.length, "object") : "nothing");
  const best = [...objects].sort((one, other) => other.score - one.score).slice(0, MAX_LISTED);
  element("found").replaceChildren(...best.map((each) => listed(each, labels)));
}

function listed({ target, score }, labels) {
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

// What the user wants

class Slider {
  constructor(name) {
    this.name = name;
    this.input = element(name);
    this.movedAt = -Infinity;
    this.input.addEventListener("input", () => this.move());
  }

  move() {
    this.movedAt = performance.now();
    put(`${this.name}-value`, `${this.input.value} %`);
    send({ do: this.name, value: this.input.valueAsNumber });
  }

  take(message) {
    const value = message.thresholds[this.name];
    this.input.disabled = value === null;
    if (value === null || performance.now() - this.movedAt < SLIDER_REST_MS) return;
    this.input.value = value;
    put(`${this.name}-value`, `${value} %`);
  }
}

const sliders = { score: new Slider("score"), iou: new Slider("iou") };

function togglePause() {
  if (state) send({ do: state.paused ? "resume" : "pause" });
}

function toggleRecording() {
  if (state) send({ do: state.recording.running ? "stop" : "record" });
}

/** The picture in its own size or larger, with what is drawn over it, as a file. */
async function saveSnapshot() {
  if (!scene) return;
  const [width, height] = sizeOf(scene);
  const scale = Math.max(1, Math.round(960 / width));
  const canvas = new OffscreenCanvas(width * scale, height * scale);
  drawScene(canvas, scene, unitOf(canvas.width));
  const link = document.createElement("a");
  link.download = `${scene.labels.name || "snapshot"}-${scene.event.number}.png`;
  link.href = URL.createObjectURL(await canvas.convertToBlob({ type: "image/png" }));
  link.click();
  URL.revokeObjectURL(link.href);
  put("said", `Saved ${link.download}`);
}

function toggleHelp() {
  const help = element("help");
  if (help.open) help.close();
  else help.showModal();
}

const KEYS = { " ": togglePause, s: saveSnapshot, r: toggleRecording, "?": toggleHelp };

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
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
document.addEventListener("keydown", press);
requestAnimationFrame(frame);
