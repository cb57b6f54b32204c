// Elements of a page. Texts from outside are never read as HTML.

export const $ = (id) => document.getElementById(id);
export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

// Of a small picture the pixels stay squares, as the model sees them; a photograph is smoothed.
export const isSmall = (image) => Math.max(image.naturalWidth, image.naturalHeight) <= 96;

// A sentence at the foot of the page that goes away by itself.
export function say(text, bad = false) {
  const toast = $("toast");
  toast.textContent = text;
  toast.className = bad ? "bad show" : "show";
  clearTimeout(say.timer);
  say.timer = setTimeout(() => toast.classList.remove("show"), bad ? 9000 : 2600);
}

// The dialog that lists the keys: [keys, what they do] each.
export function listKeys(keys) {
  for (const [key, what] of keys) $("keys").append(make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: what }));
}
