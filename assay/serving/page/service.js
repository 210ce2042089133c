// Calls of the service. The token lives in the field, and for as long as the tab in its session storage.

import { byId, element } from "./elements.js";

const KEY = "assay-token";
let questions = 0;

/** An answer other than 2xx; `reason` is the stable name of the error. */
export class ServiceError extends Error {
  constructor(message, status, reason, requestId) {
    super(message);
    Object.assign(this, { status, reason, requestId });
  }
}

/** Set the token field up; `changed` is called when another token was given. */
export function setUpToken(changed) {
  const input = byId("token");
  input.value = sessionStorage.getItem(KEY) ?? "";
  input.addEventListener("change", () => {
    sessionStorage.setItem(KEY, input.value.trim());
    changed();
  });
  input.form.addEventListener("submit", (event) => {
    event.preventDefault();
    input.blur();  // which is a change, if there is one
  });
}

/** The JSON that the service answers. Throws ServiceError. */
export async function call(path, options = {}) {
  const token = byId("token").value.trim();
  const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service cannot be reached.", 0, "UNREACHABLE", "");
  }
  let answer = {};
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (response.ok) throw new ServiceError("The service's answer broke off.", response.status, "INCOMPLETE", "");
  }
  if (response.ok) return answer;
  const details = answer.error?.details?.[0] ?? {};
  const message = answer.error?.message ?? `The service answered with status ${response.status}.`;
  throw new ServiceError(message, response.status, details.reason ?? "UNKNOWN", details.metadata?.request_id ?? "");
}

/**
 * The JSON of what a page shows; null if it was asked for again meanwhile, with another token it may be: then only the
 * later answer counts, whichever comes first. Throws ServiceError.
 */
export async function ask(path) {
  const question = (questions += 1);
  try {
    const answer = await call(path);
    return question === questions ? answer : null;
  } catch (error) {
    if (question !== questions) return null;
    throw error;
  }
}

/** An error as the page shows it. */
export function errorBox(error) {
  const hint = error.status === 401 ? " Enter the service's token above." : "";
  return element("div", { class: "error" },
    element("p", {}, element("strong", {}, error.reason ?? "ERROR"), ` ${error.message}${hint}`),
    error.requestId ? element("p", { class: "hint" }, `request ${error.requestId}`) : null);
}
