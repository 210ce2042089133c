// The page at `/status`: asks `/v1/status` every other second and shows what it says.

import { byId, element, figure, milliseconds, table } from "./elements.js";
import { ask, errorBox, setUpToken } from "./service.js";

const EVERY_MS = 2000;
const TITLES = { items: "Items held", pixels: "Pixels held", image_bytes: "Image bytes held" };
let timer = null;

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first === -1) return "0 s";
  let rest = Math.floor(seconds);
  return parts.slice(first, first + 2).map(([size, unit]) => {
    const count = Math.floor(rest / size);
    rest -= count * size;
    return `${count} ${unit}`;
  }).join(" ");
}

function tile(title, content, part = null) {
  const meter = part === null ? null : element("meter", { min: 0, max: 1, high: 0.8, value: part, "aria-label": `${title}: share of the limit` });
  return element("div", { class: "tile panel" }, element("h2", {}, title), element("p", { class: "value" }, content), meter);
}

function heldTiles({ held, cache, calls_in_flight: calls, scorers }) {
  const rate = scorers.reduce((sum, scorer) => sum + scorer.items_per_second, 0);
  return [
    tile("Items per second", rate.toFixed(1)),
    tile("Calls in flight", figure(calls)),
    ...Object.entries(held).map(([name, { now, limit }]) => tile(TITLES[name] ?? name, figure(now), now / limit)),
    cache.bytes.limit ? tile("Scores kept", figure(cache.scores), cache.bytes.now / cache.bytes.limit) : "",
  ];
}

function latency({ calls, ...parts }) {
  if (!calls) return element("p", { class: "hint" }, "No call was answered yet.");
  const rows = Object.entries(parts).map(([name, { p50, p95 }]) => [name, milliseconds(p50), milliseconds(p95)]);
  return table(`Latency of the last ${calls} calls`, ["part", "median", "95 %"], rows, ["median", "95 %"]);
}

function batches(buckets) {
  const used = buckets.filter((bucket) => bucket.batches);
  if (!used.length) return null;
  const name = ({ up_to: upTo }) => (upTo === null ? "more" : `up to ${upTo}`);
  return table("Batches by size", ["items", "batches"], used.map((bucket) => [name(bucket), figure(bucket.batches)]), ["batches"]);
}

function scorerCard(scorer) {
  return element("article", { class: "scorer" },
    element("h3", {}, scorer.name, element("span", { class: `state ${scorer.ready ? "good" : "bad"}` }, scorer.ready ? "ready" : "warming up")),
    element("p", { class: "fingerprint" }, element("code", {}, scorer.fingerprint)),
    element("p", {}, `${scorer.items_per_second.toFixed(1)} items/s over the last minute, ${figure(scorer.queued_items)} items queued`),
    element("div", { class: "tables" }, latency(scorer.latency_ms), batches(scorer.batches)));
}

function refused({ calls, items, dropped_items: dropped, failed_authentications: authentications }) {
  const rows = [
    ...failed(calls).map(({ scorer, code, reason, count }) => [scorer, "calls", reason || code, figure(count)]),
    ...failed(items).map(({ scorer, reason, count }) => [scorer, "items", reason, figure(count)]),
    ...dropped.map(({ scorer, why, count }) => [scorer, "items dropped", why, figure(count)]),
    ...authentications.map(({ door, why, count }) => [door, "calls not let in", why, figure(count)]),
  ];
  if (!rows.length) return element("p", { class: "hint" }, "None since the start.");
  return table("Since the start", ["scorer or door", "what", "reason", "count"], rows, ["count"]);
}

const failed = (counted) => counted.filter(({ code }) => code !== "OK");

function failures(recent) {
  if (!recent.length) return element("p", { class: "hint" }, "None.");
  const rows = recent.map(({ time_s: time, scorer, code, reason, items, request_id: request }) => [
    new Date(time * 1000).toLocaleTimeString("en-GB"), scorer, items ? figure(items) : "the call",
    element("span", {}, element("strong", {}, reason), element("br"), code), element("code", {}, request),
  ]);
  return table("The last ones first", ["time", "scorer", "items", "reason", "request"], rows, ["items"]);
}

function show(status) {
  byId("summary").replaceChildren(
    element("span", { class: `state ${status.state === "ready" ? "good" : "bad"}` }, status.state),
    ` up for ${duration(status.uptime_s)}, version ${status.version}`);
  byId("held").replaceChildren(...heldTiles(status));
  byId("scorers").replaceChildren(...status.scorers.map(scorerCard));
  byId("refused").replaceChildren(refused(status));
  byId("failures").replaceChildren(failures(status.recent_failures));
}

async function refresh() {
  clearTimeout(timer);
  try {
    const status = await ask("/v1/status");
    if (status === null) return;
    show(status);
    byId("message").replaceChildren();
  } catch (error) {
    byId("message").replaceChildren(errorBox(error));
    // Each further question without a right token would count as an attack; a new token asks again.
    if (error.status === 401 || error.status === 429) return;
  }
  timer = setTimeout(refresh, EVERY_MS);
}

setUpToken(refresh);
refresh();
