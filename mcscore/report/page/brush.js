// A rectangle on a plot: the gallery shows the selected items in it. By pointer it is drawn, by arrow keys moved, with Shift resized.

import { $, make } from "./dom.js";
import { facts } from "./facts.js";
import { go, show, shown } from "./gallery.js";
import { plots } from "./points.js";

const LEAST = 6, STEP = 4; // pixels of a drag, percent of a key
const brushes = [];

export function startBrushes() {
  for (const [name, plot] of plots) {
    const bar = document.querySelector(`.brush[data-for="${name}"]`);
    const brush = { plot, bar, sides: null, mark: make("span", { className: "rectangle", hidden: true }) };
    brushes.push(brush);
    plot.area.append(brush.mark);
    plot.figure.classList.add("live");
    Object.assign(plot.area, { tabIndex: 0 });
    plot.area.setAttribute("role", "group");
    plot.area.setAttribute("aria-label", "plot: choose selected items by a rectangle; arrow keys move it, with Shift they resize it, Escape clears");
    plot.area.addEventListener("pointerdown", (event) => drag(brush, event));
    plot.area.addEventListener("keydown", (event) => byKey(brush, event));
    bar.querySelector(".clear").addEventListener("click", () => { set(brush, null); plot.area.focus(); });
    bar.querySelector(".show-them").addEventListener("click", () => { $("gallery").scrollIntoView(); if (shown.length) go(shown[0]); });
  }
  $("arrange").addEventListener("reset", () => brushes.forEach((brush) => draw(brush, null)));
}

// Sides in percent of the area, from its upper left corner: x0, y0, x1, y1.
function drag(brush, event) {
  if (event.button !== 0) return;
  const area = brush.plot.area, box = area.getBoundingClientRect();
  const place = ({ clientX, clientY }) => [(100 * (clientX - box.left)) / box.width, (100 * (clientY - box.top)) / box.height].map((each) => Math.min(Math.max(each, 0), 100));
  const [x, y] = place(event);
  brush.plot.dragged = false;
  const move = (moved) => {
    if (!brush.plot.dragged && Math.hypot(moved.clientX - event.clientX, moved.clientY - event.clientY) < LEAST) return;
    if (!brush.plot.dragged) area.setPointerCapture(event.pointerId);
    brush.plot.dragged = true;
    const [a, b] = place(moved);
    draw(brush, [Math.min(x, a), Math.min(y, b), Math.max(x, a), Math.max(y, b)]);
  };
  const end = (ended) => {
    area.removeEventListener("pointermove", move);
    area.removeEventListener("pointerup", end);
    area.removeEventListener("pointercancel", end);
    if (brush.plot.dragged && ended.type === "pointerup") set(brush, brush.sides);
    else if (brush.plot.dragged) set(brush, null);
  };
  area.addEventListener("pointermove", move);
  area.addEventListener("pointerup", end);
  area.addEventListener("pointercancel", end);
}

function byKey(brush, event) {
  const by = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
  if (event.key === "Escape" && brush.sides) { event.preventDefault(); return set(brush, null); }
  if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  if (!brush.sides) return set(brush, [30, 30, 70, 70]);
  const [x0, y0, x1, y1] = brush.sides, within = (low, value, high) => Math.min(Math.max(value, low), high);
  if (event.shiftKey) return set(brush, [x0, y0, within(x0 + STEP, x1 + by[0], 100), within(y0 + STEP, y1 + by[1], 100)]);
  const dx = within(-x0, by[0], 100 - x1), dy = within(-y0, by[1], 100 - y1);
  return set(brush, [x0 + dx, y0 + dy, x1 + dx, y1 + dy]);
}

// One rectangle at a time: another plot's goes away.
function set(brush, sides) {
  for (const other of brushes) draw(other, other === brush ? sides : null);
  show(sides && inside(brush.plot, sides));
}

function inside({ ids, at }, [x0, y0, x1, y1]) {
  return ids.filter((_, index) => at[index].length && at[index][0] >= 10 * x0 && at[index][0] <= 10 * x1 && at[index][1] >= 10 * y0 && at[index][1] <= 10 * y1);
}

function draw(brush, sides) {
  brush.sides = sides;
  brush.mark.hidden = !sides;
  for (const button of brush.bar.querySelectorAll("button")) button.hidden = !sides;
  brush.bar.querySelector(".found").textContent = "";
  if (!sides) return;
  const [x0, y0, x1, y1] = sides, found = inside(brush.plot, sides).length;
  Object.assign(brush.mark.style, { left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%` });
  const among = brush.plot.figure.dataset.plot === "map" && facts.candidates
    ? `, ${facts.candidates.filter(([x, y]) => x >= 10 * x0 && x <= 10 * x1 && y >= 10 * y0 && y <= 10 * y1).length.toLocaleString("en")} candidates` : "";
  brush.bar.querySelector(".found").textContent = `${found.toLocaleString("en")} of ${brush.plot.ids.length.toLocaleString("en")} selected items are in it${among}.`;
}
