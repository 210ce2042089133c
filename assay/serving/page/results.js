// What a call gave: a card for each item, then where the time went and which scorer it was.

import { element, figure, milliseconds, table } from "./elements.js";
import { colorsOf, draw } from "./overlay.js";
import { errorBox } from "./service.js";

const zeros = { x1: 0, y1: 0, x2: 0, y2: 0 };  // numbers that are 0 may be absent from JSON

/** Elements for an answer of `/v1/score`. `shown` are the bitmaps that the items' evidence is about. */
export function showAnswer(answer, shown) {
  return [
    ...answer.results.map((result, index) => card(result, shown[index])),
    timing(answer.timing),
    element("p", { class: "fingerprint" }, element("span", { class: "hint" }, "Fingerprint "), element("code", {}, answer.scorer_fingerprint)),
  ];
}

function card(result, bitmap) {
  const evidence = readEvidence(result.score?.evidence);
  return element("article", { class: "card", "aria-label": result.id },
    element("figure", {}, draw(bitmap, evidence), element("figcaption", {}, `${result.id}, ${bitmap.width} × ${bitmap.height}`)),
    element("div", { class: "outcome" }, ...(result.score ? score(result.score, evidence) : [errorBox(result.error)])));
}

function readEvidence(evidence = {}) {
  const detections = (evidence.detections ?? []).map((seen) => ({
    label: "", confidence: 0, ...seen, box: { ...zeros, ...seen.box },
  }));
  return { ...evidence, detections, points: (evidence.points ?? []).map((point) => ({ x: 0, y: 0, ...point })) };
}

function score({ value, components }, evidence) {
  const rows = Object.entries(components).map(([name, number]) => [name, figure(number)]);
  return [
    element("p", { class: "value" }, figure(value)),
    rows.length ? table("Components", ["name", "value"], rows, ["value"]) : null,
    evidence.reason ? element("p", { class: "reason" }, evidence.reason) : null,
    evidence.judge_text ? element("div", {}, element("p", { class: "hint" }, "The judge wrote"), element("blockquote", {}, evidence.judge_text)) : null,
    evidence.detections.length ? detectionTable(evidence.detections) : null,
    evidence.points.length ? table("Points", ["x", "y"], evidence.points.map(({ x, y }) => [figure(x), figure(y)]), ["x", "y"]) : null,
  ].filter((part) => part !== null);
}

function detectionTable(detections) {
  const colors = colorsOf(detections);
  const rows = detections.map(({ label, confidence, color, box }) => [
    swatch(label, colors.get(label)), confidence.toFixed(3), color ?? "",
    [box.x1, box.y1, box.x2, box.y2].map((side) => side.toFixed(0)).join(" "),
  ]);
  return table("Detected", ["class", "confidence", "colour", "box"], rows, ["confidence"]);
}

function swatch(label, color) {
  const mark = element("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.backgroundColor = color;
  return element("span", {}, mark, label);
}

function timing(times) {
  const [queue, decode, infer, total] = ["queue_ns", "decode_ns", "infer_ns", "total_ns"].map((name) => times[name] / 1e6);
  const parts = { queue, decode, model: infer, rest: Math.max(0, total - queue - decode - infer) };
  const bar = element("div", { class: "split", "aria-hidden": "true" }, ...Object.entries(parts).map(([name, part]) => {
    const piece = element("span", { class: name });
    piece.style.flexGrow = part;
    return piece;
  }));
  const legend = Object.entries(parts).map(([name, part]) => element("li", {}, element("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${name} ${milliseconds(part)}`));
  return element("section", { class: "timing", "aria-label": "Where the time went" }, bar, element("ul", {}, ...legend,
    element("li", {}, element("strong", {}, `total ${milliseconds(total)}`)), element("li", {}, `batch of ${times.batch_items}`),
    times.spared_items ? element("li", {}, `${times.spared_items} not scored again`) : null));
}
