// The form of a UDF's parameters, typed by its signature. The page's query is its state.

import { $, button, data, el } from "../page.js";

const AREAS = new Set(["Bounds", "Bbox"]);
const WIDGETS = { bool: "checkbox", int: "number", float: "number", date: "date", datetime: "datetime-local", time: "time" };
const fields = new Map();
let timer = 0;

/** Make the form; ``changed`` is called when somebody has paused, ``area`` gives what the map shows. */
export function makeForm(changed, area) {
  for (const parameter of data.parameters) {
    const field = makeField(parameter, area);
    field.input.addEventListener("input", () => {
      mark(field);
      clearTimeout(timer);
      timer = setTimeout(changed, field.input.type === "checkbox" || field.input.tagName === "SELECT" ? 0 : 300);
    });
    field.reset.addEventListener("click", () => {
      put(field, text(parameter.default));
      changed();
      field.input.focus();
    });
    fields.set(parameter.name, field);
    $("parameters").append(field.box);
  }
  $("parameters").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    changed();
  });
  restore();
}

function makeField(parameter, area) {
  const id = `parameter-${parameter.name}`;
  const input = el(parameter.choices.length ? "select" : "input", {
    id, name: parameter.name, autocomplete: "off", required: parameter.required,
    "aria-describedby": `${id}-fault`,
  });
  for (const choice of parameter.choices) input.add(new Option(String(choice)));
  if (parameter.choices.length && (parameter.default === null || parameter.required)) input.add(new Option(parameter.required ? "choose…" : "none", ""), 0);
  if (input.tagName === "INPUT") {
    input.type = WIDGETS[parameter.type] ?? "text";
    if (input.type === "checkbox") input.setAttribute("role", "switch");
    if (input.type === "number") input.step = parameter.type === "int" ? "1" : "any";
    if (AREAS.has(parameter.type)) input.placeholder = "west, south, east, north";
    else if (!parameter.required) input.placeholder = text(parameter.default) || (parameter.written === "None" ? "none" : parameter.written);
  }
  const reset = button("↺", () => {}, { class: "reset icon", "aria-label": `Reset ${parameter.name}`, title: "Back to the default" });
  const fault = el("p", { class: "fault", id: `${id}-fault`, "aria-live": "polite" });
  const box = el("div", { class: "field" }, el("label", { for: id }, parameter.name), el("div", { class: "entry" }, input, reset), fault);
  if (AREAS.has(parameter.type)) {
    box.classList.add("area");
    box.append(button("From the map", () => {
      put({ input }, JSON.stringify(area()));
      input.dispatchEvent(new Event("input"));
    }));
  }
  return { box, input, reset, fault, parameter };
}

function text(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function put(field, written) {
  const { input } = field;
  if (input.type === "checkbox") input.checked = !["", "false", "0", "no"].includes(written.toLowerCase());
  else input.value = written;
  if (written !== "" && input.value === "" && input.type !== "checkbox") {
    // Nothing that the widget could show: said as it was asked, for the server to judge.
    if (input.tagName === "SELECT") input.add(new Option(written));
    else input.type = "text";
    input.value = written;
  }
  if (field.reset) mark(field);
}

const value = ({ input }) => (input.type === "checkbox" ? String(input.checked) : input.value);

function usual({ input, parameter }) {
  return input.type === "checkbox" ? String(Boolean(parameter.default)) : text(parameter.default);
}

function isUsual(field) {
  const now = value(field);
  return now === usual(field) || (now === "" && !field.parameter.required);
}

function mark(field) {
  field.reset.hidden = field.parameter.required || isUsual(field);
}

/** Fill the form from the page's address. */
export function restore() {
  const asked = new URLSearchParams(location.search);
  for (const [name, field] of fields) {
    const given = asked.getAll(name);
    put(field, given.length > 1 ? JSON.stringify(given) : given[0] ?? text(field.parameter.default));
  }
}

/** The parameters that differ from their defaults, and what else the page was asked with: "" or "?…". */
export function query() {
  const asked = new URLSearchParams(location.search);
  for (const [name, field] of fields) {
    if (isUsual(field)) asked.delete(name);
    else asked.set(name, value(field));
  }
  const written = asked.toString();
  return written ? `?${written}` : "";
}

/** What can't be sent because a widget has something in it that is no value of its type. */
export function unfit() {
  for (const field of fields.values()) {
    if (field.input.validity.badInput) return `parameter '${field.parameter.name}' takes ${field.parameter.type === "int" ? "a whole number" : `a ${field.input.type.replace("-local", "")}`}`;
  }
  return null;
}

/** Whether a problem is one of this parameter: the server quotes it, a function's own words may have it in them. */
function isAbout(name, problem) {
  const quoted = /parameter '(\w+)'/.exec(problem);
  if (quoted) return quoted[1] === name;
  return name.length > 2 && problem.split(/\W+/).includes(name);
}

/** Show a problem at the field that it names; whether one was. */
export function showFault(problem) {
  let shown = false;
  for (const [name, { input, fault }] of fields) {
    const named = problem !== null && isAbout(name, problem);
    fault.textContent = named && !shown ? problem : "";
    if (named && !shown) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    shown ||= named;
  }
  return shown;
}

export function focusFirst() {
  fields.values().next().value?.input.focus();
}
