// Points of a plot and cards belong together: the one that the pointer or the keyboard is at is shown in both, and candidates have colors.

import { $, make } from "./dom.js";
import { cards, facts, items, labelable, placeOf } from "./facts.js";
import { className, figure } from "./words.js";

const SIDE = 1000, NEAR = 12; // of the square; pixels
const COLORS = 10; // classes that have a color of their own, the most frequent ones
const hue = (at) => `hsl(${(at * 137.5 + 210) % 360} 62% 52%)`;

// Plots by name: { figure, area, ids, at }, `at` the places of the selected items in the square.
export const plots = new Map([...document.querySelectorAll(".plot[data-plot]")].filter((figure) => facts.plots[figure.dataset.plot] && items.length)
  .map((figure) => [figure.dataset.plot, { figure, area: figure.querySelector(".area"), ...facts.plots[figure.dataset.plot] }]));

export function startPoints(open) {
  const tip = make("div", { id: "tip", hidden: true });
  document.body.append(tip);
  for (const plot of plots.values()) {
    plot.here = make("span", { className: "here", hidden: true });
    plot.area.append(plot.here);
    plot.area.addEventListener("pointermove", (event) => hover(plot, event, tip));
    plot.area.addEventListener("pointerleave", () => { tip.hidden = true; mark(null); });
    plot.area.addEventListener("click", (event) => { const at = nearest(plot, event); if (at !== undefined && !plot.dragged) open(at); });
  }
  const of = (event) => placeOf.get(Number(event.target.closest?.(".card")?.dataset.id));
  for (const kind of ["pointerover", "focusin"]) $("sheet").addEventListener(kind, (event) => mark(of(event)));
  for (const kind of ["pointerleave", "focusout"]) $("sheet").addEventListener(kind, () => mark(null));
  if (facts.candidates && plots.has("map")) startColors(plots.get("map"));
}

// Rings an item on every plot; null: none.
function mark(at) {
  for (const plot of plots.values()) {
    const point = at == null ? undefined : plot.at[plot.ids.indexOf(items[at].id)];
    plot.here.hidden = !point?.length;
    if (point?.length) Object.assign(plot.here.style, { left: `${(100 * point[0]) / SIDE}%`, top: `${(100 * point[1]) / SIDE}%` });
  }
}

function nearest(plot, event) {
  const box = plot.area.getBoundingClientRect(), best = { away: NEAR };
  plot.at.forEach((point, at) => {
    if (!point.length) return;
    const away = Math.hypot((point[0] / SIDE) * box.width - (event.clientX - box.left), (point[1] / SIDE) * box.height - (event.clientY - box.top));
    if (away < best.away && placeOf.has(plot.ids[at])) Object.assign(best, { away, item: placeOf.get(plot.ids[at]) });
  });
  return best.item;
}

function hover(plot, event, tip) {
  const at = event.pointerType === "mouse" && !event.buttons ? nearest(plot, event) : undefined;
  mark(at ?? null);
  tip.hidden = at === undefined;
  if (at === undefined) return;
  const card = cards[at].cloneNode(true);
  card.removeAttribute("tabindex");
  tip.replaceChildren(...card.childNodes);
  const left = Math.min(event.pageX + 14, scrollX + document.documentElement.clientWidth - 164);
  Object.assign(tip.style, { left: `${left}px`, top: `${event.pageY + 14}px` });
}

// Colors the candidates by class or score; the drawing of the page's start is kept for "nothing".
function startColors(map) {
  const group = map.figure.querySelector("g.candidates"), plain = [...group.childNodes];
  if (!labelable) $("color-by").querySelector('[value="class"]').remove();
  document.querySelector(".color-by").hidden = false;
  $("color-by").addEventListener("input", () => {
    const parts = { "": () => null, class: byClass, score: byScore }[$("color-by").value]();
    group.replaceChildren(...(parts ? parts.map(([points, color]) => dots(points, color)) : plain));
    $("color-legend").replaceChildren(...(parts ?? []).map(([, color, text]) => {
      const sign = make("i");
      sign.style.background = color;
      return make("span", {}, sign, text);
    }));
    document.querySelector(".of-candidates").hidden = parts !== null;
  });
}

// [points, color, text] of each color.
function byClass() {
  const of = new Map();
  for (const point of facts.candidates) of.set(point[2], [...(of.get(point[2]) ?? []), point]);
  const all = [...of].sort((a, b) => b[1].length - a[1].length);
  const own = all.slice(0, COLORS).map(([number, points]) => [points, hue(number), className(facts.classes, number)]);
  const others = all.slice(COLORS).flatMap(([, points]) => points);
  return others.length ? [[others, "var(--line)", "other classes"], ...own] : own;
}

function byScore() {
  const sorted = facts.candidates.filter((point) => point[3] !== null).sort((a, b) => a[3] - b[3]), parts = 5;
  return Array.from({ length: parts }, (_, part) => {
    const points = sorted.slice(Math.floor((part * sorted.length) / parts), Math.floor(((part + 1) * sorted.length) / parts));
    const text = points.length ? `${figure(points[0][3])} to ${figure(points.at(-1)[3])}` : "";
    return [points, `hsl(${225 - 45 * part} ${50 + 8 * part}% ${62 - 4 * part}%)`, text];
  }).filter(([points]) => points.length);
}

function dots(points, color) {
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("class", "dot");
  path.setAttribute("d", points.map(([x, y]) => `M${x} ${y}h0`).join(""));
  path.style.stroke = color;
  return path;
}
