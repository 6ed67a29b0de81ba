// A page of a canvas that is not public: asks for what opens it, and becomes the page itself.
// What was given is kept for this tab, and sent as a header by this page's own requests only.

const { scheme } = JSON.parse(document.getElementById("data").textContent);
const key = `tileserver ${location.pathname.split("/").find((part) => /^(fc_|fsh_|UDF_|[0-9a-f]{64})/.test(part))}`;
const form = document.getElementById("lock");
const message = document.getElementById("message");
const { nonce } = document.querySelector("script[nonce]");

async function open(authorization) {
  let response;
  try {
    response = await fetch(location.href, { headers: { Authorization: authorization, Accept: "text/html" } });
  } catch {
    message.textContent = "The server does not answer.";
    return;
  }
  // A function that can't be served has a page too, that says why.
  const isPage = response.headers.get("content-type")?.startsWith("text/html");
  if (response.ok || (response.status === 422 && isPage)) {
    sessionStorage.setItem(key, authorization);
    await become(await response.text());
    return;
  }
  sessionStorage.removeItem(key);
  message.textContent = isPage ? `${response.status} ${response.statusText}` : (await response.json()).detail;
  form.elements.secret.select();
}

/** Put another page in the place of this one, and run its scripts in their order. */
async function become(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const scripts = [...page.querySelectorAll("script[src]")];
  for (const script of scripts) script.remove();
  document.title = page.title;
  for (const sheet of page.querySelectorAll('link[rel="stylesheet"]')) {
    if (!document.querySelector(`link[href="${CSS.escape(sheet.getAttribute("href"))}"]`)) document.head.append(sheet);
  }
  document.body.replaceChildren(...page.body.childNodes);
  for (const { src, type } of scripts) {
    const script = document.createElement("script");
    Object.assign(script, { nonce, src, type, async: false });
    const loaded = new Promise((resolve) => { script.onload = script.onerror = resolve; });
    document.body.append(script);
    await loaded;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  message.textContent = "";
  open(`${scheme} ${form.elements.secret.value.trim()}`);
});

const kept = sessionStorage.getItem(key);
if (kept) open(kept);
