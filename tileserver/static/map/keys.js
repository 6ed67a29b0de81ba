// The keyboard, and the list of its keys.

import { $, button, el } from "../page.js";

/** ``keys`` maps a key to what it does and its action. */
export function keepKeys(keys) {
  const rows = Object.entries(keys).map(([key, [label]]) => el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, key === "Escape" ? "Esc" : key.toUpperCase())), el("td", {}, label)));
  $("help").replaceChildren(
    el("div", { class: "bar" }, el("h2", {}, "Keys"), button("×", () => $("help").close(), { class: "icon", "aria-label": "Close" })),
    el("table", { class: "keys" }, ...rows),
  );
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), select, textarea, dialog");
    if (event.ctrlKey || event.metaKey || event.altKey || (writing && event.key !== "Escape")) return;
    const found = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!found) return;
    if (event.key !== "Escape") event.preventDefault();
    found[1]();
  });
}
