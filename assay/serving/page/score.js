// The page at `/`: choose images, a scorer and a task; show what the service says.

import { byId, element } from "./elements.js";
import { showAnswer } from "./results.js";
import { ask, call, errorBox, setUpToken } from "./service.js";
import { TASKS, tasksOf } from "./tasks.js";

let scorers = [];
let chosen = [];  // {name, file, bitmap}
let running = null;

function say(...content) {
  byId("message").replaceChildren(...content);
}

async function loadScorers() {
  try {
    const answer = await ask("/v1/scorers");
    if (answer === null) return;
    ({ scorers } = answer);
    say();
  } catch (error) {
    scorers = [];
    say(errorBox(error));
  }
  byId("scorer").replaceChildren(...scorers.map(({ name }) => element("option", { value: name }, name)));
  byId("scorer").disabled = scorers.length === 0;
  showScorer();
}

const scorer = () => scorers.find(({ name }) => name === byId("scorer").value);
const task = () => TASKS[byId("task").value];

function showScorer() {
  const names = scorer() ? tasksOf(scorer()) : [];
  const options = names.map((name) => element("option", { value: name }, TASKS[name].title));
  byId("task").replaceChildren(...options);
  byId("task-choice").hidden = names.length < 2;
  byId("about").textContent = scorer() ? about(scorer()) : "";
  showTask();
}

function about({ value_range: range, limits, deterministic }) {
  const sides = `${limits.min_image_side} to ${limits.max_image_side} pixels a side`;
  return `Scores from ${range.lowest} to ${range.highest}, ${deterministic ? "deterministic" : "may vary"}; images of ${sides}.`;
}

function showTask() {
  const fields = scorer() ? task().fields() : [];
  byId("task-fields").replaceChildren(...fields);
  byId("images-hint").textContent = (scorer() && task().hint) || "";
}

async function addFiles(files) {
  for (const file of files) {
    try {
      // As stored: boxes are in pixels of the file, whatever a camera says of its orientation.
      chosen.push({ name: file.name, file, bitmap: await createImageBitmap(file, { imageOrientation: "none" }) });
    } catch {
      say(errorBox({ reason: "NOT_AN_IMAGE", message: `${file.name} is no image that this browser can read.` }));
    }
  }
  showChosen();
}

function showChosen() {
  byId("chosen").replaceChildren(...chosen.map((image) => {
    const preview = element("canvas", { width: 64, height: 64, "aria-hidden": "true" });
    const scale = 64 / Math.max(image.bitmap.width, image.bitmap.height);
    preview.getContext("2d").drawImage(image.bitmap, 0, 0, image.bitmap.width * scale, image.bitmap.height * scale);
    const remove = () => {
      chosen = chosen.filter((other) => other !== image);
      showChosen();
    };
    return element("li", {}, preview, element("span", {}, image.name),
      element("button", { type: "button", class: "quiet", "aria-label": `Remove ${image.name}`, onclick: remove }, "×"));
  }));
}

async function toImage({ file }) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const starts = (signature, at = 0) => signature.every((byte, index) => bytes[at + index] === byte);
  const format = starts([0x89, 0x50, 0x4e, 0x47]) ? "png" : starts([0xff, 0xd8, 0xff]) ? "jpeg" : starts([0x57, 0x45, 0x42, 0x50], 8) ? "webp" : null;
  if (format === null) throw Object.assign(new Error(`${file.name} is neither PNG nor WebP nor JPEG.`), { reason: "IMAGE_FORMAT_UNSUPPORTED" });
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return { format, data: btoa(binary) };
}

/** The items of a call, and for each the bitmap that its evidence is about. */
async function toItems() {
  const images = await Promise.all(chosen.map(toImage));
  const shared = { prompt: byId("prompt").value.trim(), task: task().read() };
  if (task().together) {
    return { items: [{ id: chosen[0].name, images, ...shared }], shown: [chosen[Math.max(0, chosen.length - 2)].bitmap] };
  }
  return { items: images.map((image, index) => ({ id: chosen[index].name, images: [image], ...shared })), shown: chosen.map(({ bitmap }) => bitmap) };
}

async function score() {
  running = new AbortController();
  const { items, shown } = await toItems();
  const body = JSON.stringify({ scorer: scorer().name, items, priority: "evaluation", evidence: true, deadline_s: 300 });
  const answer = await call("/v1/score", { method: "POST", body, headers: { "content-type": "application/json" }, signal: running.signal });
  byId("results").replaceChildren(...showAnswer(answer, shown));
  const failed = answer.results.filter((result) => !result.score).length;
  say(`${answer.results.length - failed} scored${failed ? `, ${failed} failed` : ""}`);
}

function setBusy(busy) {
  byId("score").disabled = busy;
  byId("cancel").hidden = !busy;
  byId("results").setAttribute("aria-busy", busy);
}

async function submit(event) {
  event.preventDefault();
  if (!scorer() || chosen.length === 0) {
    say(errorBox({ reason: "INCOMPLETE", message: scorer() ? "Choose an image first." : "There is no scorer to ask." }));
    return;
  }
  setBusy(true);
  say("Scoring …");
  try {
    await score();
  } catch (error) {
    byId("results").replaceChildren();
    if (error.name === "AbortError") say("Cancelled.");
    else say(errorBox(error));
  } finally {
    setBusy(false);
  }
}

function setUpDropping() {
  const drop = byId("drop");
  const mark = (isOver) => drop.classList.toggle("over", isOver);
  // The whole page takes drops: a picture let fall beside the field would otherwise be opened in place of the page.
  window.addEventListener("dragover", (event) => { event.preventDefault(); mark(true); });
  window.addEventListener("dragleave", () => mark(false));
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    addFiles([...event.dataTransfer.files]);  // the list itself is empty once the event is over
  });
}

byId("files").addEventListener("change", ({ target }) => {
  addFiles([...target.files]);
  target.value = "";  // so that the same file may be chosen again
});
byId("scorer").addEventListener("change", showScorer);
byId("task").addEventListener("change", showTask);
byId("request").addEventListener("submit", submit);
byId("cancel").addEventListener("click", () => running?.abort());
setUpDropping();
setUpToken(loadScorers);
loadScorers();
