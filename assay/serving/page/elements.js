// Elements of the page, made without ever reading text as HTML.

/**
 * An element with attributes and children. A string among the children becomes text, null is left out.
 * An attribute that is true has no value, one that is false or null is left out; `on...` are listeners.
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** A labelled control, as the forms of the page have them. */
export function field(label, control) {
  return element("div", { class: "field" }, element("label", { for: control.id }, label), control);
}

/** A table; cells are strings or elements, the columns named in `numeric` stand to the right. */
export function table(caption, columns, rows, numeric = []) {
  const alignment = (index) => (numeric.includes(columns[index]) ? "number" : null);
  const cell = (name, content, index) => element(name, { class: alignment(index), scope: name === "th" ? "col" : null }, content);
  return element("div", { class: "scroll" }, element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...columns.map((column, index) => cell("th", column, index)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((content, index) => cell("td", content, index)))))));
}

/** A number with as many digits as say something. */
export function figure(number) {
  if (Number.isInteger(number)) return number.toLocaleString("en");
  return Math.abs(number) >= 100 ? number.toFixed(1) : number.toPrecision(4).replace(/\.?0+$/, "");
}

export const milliseconds = (value) => (value >= 1000 ? `${figure(value / 1000)} s` : `${value.toFixed(value < 10 ? 2 : 0)} ms`);
