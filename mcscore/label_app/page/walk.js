// Which item is the current one, and which ones are shown, in which order.

import { differs, hasLabel, orders, within } from "./arrange.js";
import { $, make, same } from "./dom.js";
import { drawPanel, drawProgress } from "./panel.js";
import { pictureOf } from "./server.js";
import { drawStage } from "./stage.js";
import { isTodo, page, textOf } from "./state.js";
import { tiles } from "./tiles.js";
import { title } from "./words.js";

export function startFilters() {
  const choices = () => [new Option("any class", ""), ...page.facts.classes.map((_, number) => new Option(textOf(number), number))];
  $("f-predicted").append(...choices());
  $("f-label").append(...choices());
  $("f-score").append(...Object.keys(page.items[0]?.scores ?? {}).map((name) => new Option(title(name), name)));
  $("filter-bar").addEventListener("input", refilter);
  $("filter-bar").addEventListener("submit", (event) => event.preventDefault());
  $("filter-bar").addEventListener("reset", () => setTimeout(refilter));
}

export function go(at) {
  tiles[page.current]?.classList.remove("current");
  page.current = at;
  arrange();
  tiles[at].classList.add("current");
  if (page.view === "grid") tiles[at].scrollIntoView({ block: "nearest" });
  drawStage({ whole: true });
  drawPanel();
  for (const next of page.shown.slice(page.place + 1, page.place + 3)) if (page.facts.kind === "image") new Image().src = pictureOf(page.items[next].id);
}

export function step(by) {
  const { shown, place } = page, at = shown.indexOf(page.current);
  const next = at < 0 ? place + (by > 0 ? by - 1 : by) : at + by;
  if (shown.length) go(shown[Math.min(Math.max(next, 0), shown.length - 1)]);
}

// The next item to do after one that is finished; those that were skipped come last.
export function onward(from) {
  const at = page.shown.indexOf(from), first = at < 0 ? page.place : at + 1;
  const after = [...page.shown.slice(first), ...page.shown.slice(0, first)];
  const next = after.find((i) => isTodo(i) && !page.skipped.has(i) && i !== from) ?? after.find((i) => isTodo(i) && i !== from);
  if (next !== undefined) return go(next);
  arrange();
  go(page.shown[Math.min(first, page.shown.length - 1)] ?? from);
}

export function show(view) {
  page.view = view;
  document.body.className = view;
  $("view-one").setAttribute("aria-pressed", view === "one");
  $("view-grid").setAttribute("aria-pressed", view === "grid");
  if (view === "one") drawStage();
  else tiles[page.current]?.scrollIntoView({ block: "center" });
}

export function arrange() {
  const order = orders(page.items, $("f-score").value)[$("f-sort").value];
  const now = page.items.map((_, at) => at).filter(passes).sort(order);
  if (!same(now, page.shown) || !$("grid").childElementCount) {
    page.shown = now;
    $("grid").replaceChildren(...(now.length ? now.map((at) => tiles[at]) : [make("li", { className: "nothing", textContent: "No item passes the filter." })]));
  }
  const at = page.shown.indexOf(page.current);
  if (at >= 0) page.place = at;
  const plain = ["f-predicted", "f-label", "f-low", "f-high"].every((id) => $(id).value === "") && $("f-show").value === "all";
  $("filtered").hidden = plain;
  $("filtered").textContent = page.shown.length.toLocaleString("en");
  drawProgress();
}

function refilter() {
  arrange();
  if (page.shown.length && !page.shown.includes(page.current)) go(page.shown[0]);
  else drawPanel();
}

function passes(at) {
  const { label, excluded } = page.states[at], item = page.items[at];
  const of = {
    all: true, todo: isTodo(at), labeled: label !== null, skipped: page.skipped.has(at), excluded, differs: differs(label, item.prediction),
  };
  if (!of[$("f-show").value]) return false;
  if ($("f-label").value !== "" && !hasLabel(label, Number($("f-label").value))) return false;
  return within(item, { predicted: $("f-predicted").value, score: $("f-score").value, low: $("f-low").value, high: $("f-high").value });
}
