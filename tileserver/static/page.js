// What the pages' scripts share: the page's data, requests with the canvas's credential, and elements.

export const data = JSON.parse(document.getElementById("data").textContent);
export const $ = (id) => document.getElementById(id);

// What opens a canvas that is not public, as the page that asked for it has kept it (see lock.js).
const share = location.pathname.split("/").find((part) => /^(fc_|fsh_|UDF_|[0-9a-f]{64})/.test(part));
const secret = sessionStorage.getItem(`tileserver ${share}`);

export const restricted = Boolean(secret);

/** A request to this server, with what opens the canvas in a header, never in the address. */
export function ask(address, { headers = {}, ...options } = {}) {
  return fetch(address, { ...options, headers: { ...(secret ? { Authorization: secret } : {}), ...headers } });
}

/** An error's JSON; what is no answer of ours says what its status is. */
export async function problemOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    return { detail: `${response.status} ${response.statusText}` };
  }
}

/** An element: attributes by name, listeners as functions by "onclick" and the like, text as text. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function button(label, action, attributes = {}) {
  return el("button", { type: "button", onclick: (event) => action(event.currentTarget), ...attributes }, label);
}

/** Put text on the clipboard, also where the page did not come by https, and say so on the button. */
export async function copy(text, made) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { "aria-hidden": "true", class: "offscreen" });
    area.value = text;
    (made.closest("dialog") ?? document.body).append(area); // outside an open dialog nothing can be selected
    area.select();
    document.execCommand("copy");
    area.remove();
    made.focus();
  }
  const label = made.dataset.label ?? made.textContent;
  made.dataset.label = label;
  made.textContent = "Copied";
  made.setAttribute("aria-live", "polite");
  clearTimeout(made.timer);
  made.timer = setTimeout(() => { made.textContent = label; }, 1500);
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1000).toPrecision(3)} kB` : `${(bytes / 1e6).toPrecision(3)} MB`;
}
