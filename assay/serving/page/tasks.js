// The forms of the tasks: for each kind that a scorer may accept, its fields, and the JSON that they make.

import { byId, element, field } from "./elements.js";

const COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"];
const RELATIONS = ["left of", "right of", "above", "below"];
const TAGS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"];

const option = (value, text = value) => element("option", { value }, text);
const text = (id, attributes = {}) => element("input", { id, type: "text", ...attributes });
const number = (id, value, min) => element("input", { id, type: "number", value, min, step: 1 });
const value = (id) => byId(id).value.trim();

let clauses = 0;

/** One row of GenEval's clauses. */
function clauseRow(isExclude) {
  const id = `clause-${(clauses += 1)}`;
  const row = element("div", { class: "clause", "data-id": id, role: "group", "aria-label": isExclude ? "Excluded object" : "Wanted object" },
    field("Class", text(`${id}-class`, { required: true, placeholder: "apple" })),
    field(isExclude ? "From" : "Count", number(`${id}-count`, 1, isExclude ? 1 : 0)),
    isExclude ? null : field("Colour", element("select", { id: `${id}-color` }, option("", "any"), ...COLORS.map((color) => option(color)))),
    isExclude ? null : field("Position", element("select", { id: `${id}-relation` }, option("", "anywhere"), ...RELATIONS.map((relation) => option(relation)))),
    isExclude ? null : field("Of no.", number(`${id}-of`, 1, 1)),
    element("button", { type: "button", class: "quiet", "aria-label": "Remove this object", onclick: () => row.remove() }, "Remove"));
  return row;
}

function clauseList(id, title, isExclude) {
  const rows = element("div", { id, class: "clauses" }, ...(isExclude ? [] : [clauseRow(false)]));
  const add = () => {
    rows.append(clauseRow(isExclude));
    rows.lastElementChild.querySelector("input").focus();
  };
  return element("fieldset", {}, element("legend", {}, title), rows,
    element("button", { type: "button", class: "quiet", onclick: add }, isExclude ? "Add an excluded object" : "Add an object"));
}

function readClauses(id) {
  return [...byId(id).children].map(({ dataset }) => {
    const clause = { class: value(`${dataset.id}-class`), count: Number(value(`${dataset.id}-count`)) };
    if (byId(`${dataset.id}-color`)?.value) clause.color = value(`${dataset.id}-color`);
    if (byId(`${dataset.id}-relation`)?.value) clause.position = [value(`${dataset.id}-relation`), Number(value(`${dataset.id}-of`)) - 1];
    return clause;
  });
}

/** The tag of GenEval that tasks of such clauses have. */
export function tagOf(include) {
  if (include.some((clause) => clause.position)) return "position";
  const colored = include.some((clause) => clause.color);
  if (include.length > 1) return colored ? "color_attr" : "two_object";
  if (colored) return "colors";
  return include.some((clause) => clause.count !== 1) ? "counting" : "single_object";
}

function readGeneval() {
  const include = readClauses("include");
  return { type: "geneval", tag: value("tag") || tagOf(include), include, exclude: readClauses("exclude") };
}

/** By the contract's name of a task: what it is called here, its fields, and its JSON. */
export const TASKS = {
  TASK_TYPE_GENEVAL: {
    title: "GenEval: objects, counts, colours, positions",
    fields: () => [
      clauseList("include", "Wanted", false),
      clauseList("exclude", "Excluded", true),
      field("Tag", element("select", { id: "tag" }, option("", "by the clauses"), ...TAGS.map((tag) => option(tag)))),
    ],
    read: readGeneval,
  },
  TASK_TYPE_OUTCOME: {
    title: "Outcome: does the image satisfy the prompt?",
    fields: () => [field("Question", text("question", { placeholder: "the scorer's own" }))],
    read: () => ({ type: "outcome", question: value("question") }),
  },
  TASK_TYPE_POTENTIAL: {
    title: "Potential: can an intermediate image become a good one?",
    fields: () => [field("Step", number("step", 0, 0)), field("Steps in all", number("num_steps", 10, 1))],
    read: () => ({ type: "potential", step: Number(value("step")), num_steps: Number(value("num_steps")) }),
  },
  TASK_TYPE_SPATIAL: {
    title: "Relation: do two objects stand like this?",
    fields: () => [
      field("Subject", text("subject", { required: true, placeholder: "apple" })),
      field("Relation", text("relation", { required: true, placeholder: "left of" })),
      field("Reference", text("reference", { required: true, placeholder: "dog" })),
    ],
    read: () => ({ type: "spatial", subject: value("subject"), relation: value("relation"), reference: value("reference") }),
  },
  TASK_TYPE_POINTING: {
    title: "Pointing: where in the last view is it?",
    fields: () => [field("Question", text("question", { placeholder: "the scorer's own" }))],
    read: () => ({ type: "pointing", question: value("question") }),
    // The images are views of one item and, last, the mask of the true place.
    together: true,
    hint: "The images are one item, in this order: the views and, last, the mask of the query view.",
  },
  "": { title: "None: the image and its prompt", fields: () => [], read: () => null },
};

/** The kinds of task that a scorer accepts; one that names none accepts all. */
export function tasksOf(scorer) {
  const named = scorer.tasks.filter((name) => name in TASKS);
  return scorer.tasks.length ? named : ["", ...Object.keys(TASKS).filter((name) => name)];
}
