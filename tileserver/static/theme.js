// Light or dark: as the system is, until somebody chooses.

import { button } from "./page.js";

const KEY = "tileserver theme";
const system = window.matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

export const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

export function onTheme(listener) {
  listeners.push(listener);
}

function put(chosen) {
  if (chosen === null) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  for (const listener of listeners) listener();
}

/** Switch to the other one; choosing what the system has is following it again. */
export function toggleTheme() {
  const wanted = isDark() ? "light" : "dark";
  const followed = wanted === (system.matches ? "dark" : "light");
  if (followed) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, wanted);
  put(followed ? null : wanted);
}

export function themeButton() {
  const made = button("", toggleTheme, { class: "icon" });
  const label = () => {
    made.textContent = isDark() ? "☀" : "☾";
    made.setAttribute("aria-label", isDark() ? "Light theme" : "Dark theme");
    made.title = `${isDark() ? "Light" : "Dark"} theme (T)`;
  };
  onTheme(label);
  label();
  return made;
}

put(localStorage.getItem(KEY));
system.addEventListener("change", () => put(localStorage.getItem(KEY)));
