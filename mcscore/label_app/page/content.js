// Draws an item: its picture, its text, or its numbers. Nothing of it is ever read as HTML.

import { isSmall, make } from "./dom.js";
import { ask, pictureOf } from "./server.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_BARS = 48;
const MOST_CELLS = 64; // rows and columns of a table of numbers

const known = new Map(); // id -> promise of what the server tells of an item

// The element of an item; what must be asked for comes later. large: the only one on the page.
export function draw(item, kind, large) {
  if (kind === "image") {
    const image = make("img", { src: pictureOf(item.id), alt: `item ${item.id}`, loading: large ? "eager" : "lazy", draggable: false });
    image.addEventListener("load", () => image.classList.toggle("pixels", isSmall(image)));
    image.addEventListener("error", () => image.replaceWith(failed("This picture cannot be read.")));
    return image;
  }
  const place = make("div", { className: `content ${kind}` });
  const fill = () => {
    if (!known.has(item.id)) known.set(item.id, ask(`api/item/${item.id}`));
    known.get(item.id).then(({ ok, body }) => place.replaceChildren(...(ok ? drawn(body, large) : [failed(body.error)])))
      .catch(() => { known.delete(item.id); place.replaceChildren(failed("The server does not answer.")); });
  };
  if (large) fill();
  else whenSeen(place, fill);
  return place;
}

function failed(text) {
  return make("p", { className: "failed", textContent: text });
}

function drawn(facts, large) {
  if (facts.kind === "text") return [make("p", { textContent: facts.text || "(empty)" })];
  if (facts.kind === "vector") return large ? [plot(facts), table(facts.values, facts.n)] : [plot(facts)];
  return [make("p", { className: "shape", textContent: facts.shape.join(" × ") }), ...(large ? [matrix(facts)] : [table(facts.values.slice(0, 12), facts.n)])];
}

// Bars of a short vector, a line of a long one; the scale is that of all items, so that they can be compared.
function plot({ values, low, high, n }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${n} values from ${Math.min(...values.filter(Number.isFinite))} to ${Math.max(...values.filter(Number.isFinite))}`);
  const span = high > low ? high - low : 1;
  const height = (value) => 39 - (38 * ((value ?? 0) - low)) / span;
  if (values.length <= MOST_BARS) {
    const zero = height(Math.min(Math.max(0, low), high)), step = 100 / values.length;
    values.forEach((value, at) => {
      const bar = document.createElementNS(SVG, "rect"), top = height(value);
      const sides = { x: at * step, width: step * 0.82, y: Math.min(top, zero), height: Math.max(0.6, Math.abs(top - zero)) };
      for (const [name, side] of Object.entries(sides)) bar.setAttribute(name, side.toFixed(3));
      svg.append(bar);
    });
  } else {
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", values.map((value, at) => `${((100 * at) / (values.length - 1)).toFixed(2)},${height(value).toFixed(2)}`).join(" "));
    svg.append(line);
  }
  return svg;
}

function told(value) {
  return value === null ? "NaN" : String(Number(value.toPrecision(4)));
}

function table(values, n) {
  const shown = values.slice(0, 256);
  const more = n > shown.length ? ` … (${n.toLocaleString("en")} in all)` : "";
  return make("p", { className: "values", textContent: shown.map(told).join("  ") + more });
}

function matrix({ shape, values, n }) {
  const [rows, columns] = [shape.at(-2) ?? 1, shape.at(-1) ?? 1];
  if (shape.length !== 2 || columns > MOST_CELLS) return table(values, n);
  const body = make("table");
  for (let row = 0; row < Math.min(rows, MOST_CELLS) && (row + 1) * columns <= values.length; row++) {
    body.append(make("tr", {}, ...values.slice(row * columns, (row + 1) * columns).map((value) => make("td", { textContent: told(value) }))));
  }
  return body;
}

const waiting = new WeakMap();
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    waiting.get(target)?.();
  }
}, { rootMargin: "300px" });

function whenSeen(element, then) {
  waiting.set(element, then);
  seen.observe(element);
}
