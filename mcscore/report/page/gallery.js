// The gallery: which cards are shown, in which order, and which of them has the keyboard.

import { differs, orders, within } from "./arrange.js";
import { $, isSmall, make } from "./dom.js";
import { cards, facts, items, labelable } from "./facts.js";
import { givenTo, labelOf, onLabel } from "./labels.js";
import { className, labelText } from "./words.js";

export let shown = items.map((_, at) => at);
export let current = 0;
let chosen = null; // ids within the rectangle on a plot, or null

export function startGallery() {
  const choices = (select, pairs) => $(select).append(...pairs.map(([value, text]) => new Option(text, value)));
  const sorts = [["rank", "as selected"], ["high", "highest score first"], ["low", "lowest score first"]];
  if (labelable) sorts.push(["predicted", "by predicted class"]);
  if (facts.error) sorts.push(["unsure", "largest standard error first"]);
  if (items.some((item) => item.chance !== null)) sorts.push(["doubt", "least probable prediction first"]);
  choices("sort", [...sorts, ["id", "by id"]]);
  choices("f-score", facts.scores);
  if (labelable) choices("f-class", [["", "any class"], ...facts.classes.map((_, number) => [number, className(facts.classes, number)])]);
  $("arrange").addEventListener("input", arrange);
  $("arrange").addEventListener("submit", (event) => event.preventDefault());
  $("arrange").addEventListener("reset", () => setTimeout(() => { show(null); }));
  $("view-gallery").addEventListener("click", () => asRows(false));
  $("view-rows").addEventListener("click", () => asRows(true));
  cards.forEach((card, at) => {
    card.tabIndex = at === 0 ? 0 : -1;
    card.setAttribute("aria-label", `item ${items[at].id}${items[at].key ? `, ${items[at].key}` : ""}`);
    card.querySelector(".caption").append(make("div", { className: "given", hidden: true }));
    card.addEventListener("focus", () => { point(at); });
    const image = card.querySelector("img");
    if (image) image.complete ? keepPixels(image) : image.addEventListener("load", () => keepPixels(image));
    drawLabel(at);
  });
  onLabel(drawLabel);
  arrange();
}

// Shows the items with these ids only; null: all that the filter lets through.
export function show(ids) {
  chosen = ids && new Set(ids);
  arrange();
}

export function go(at) {
  point(at);
  cards[at].focus({ preventScroll: false });
}

// The place of the item that is `by` after the current one, as they are shown.
export function after(by) {
  const at = shown.indexOf(current);
  return shown[Math.min(Math.max(at + by, 0), shown.length - 1)] ?? current;
}

// Cards in a row of the gallery.
export function across() {
  const first = cards[shown[0]]?.offsetTop, next = shown.findIndex((at) => cards[at].offsetTop !== first);
  return next < 1 ? Math.max(1, shown.length) : next;
}

function point(at) {
  cards[current]?.setAttribute("tabindex", -1);
  current = at;
  cards[at].tabIndex = 0;
}

function arrange() {
  const score = $("f-score").value, asked = { predicted: $("f-class").value, score, low: $("f-low").value, high: $("f-high").value };
  const text = $("f-key").value.trim().toLowerCase();
  const passes = (at) => {
    const item = items[at], label = labelable ? labelOf(at) : null;
    const of = { all: true, todo: label === null, labeled: label !== null, differs: differs(label, item.prediction) };
    return of[$("f-show").value] && within(item, asked) && (!chosen || chosen.has(item.id)) && (!text || String(item.key ?? item.id).toLowerCase().includes(text));
  };
  const order = {
    ...orders(items, score),
    unsure: (a, b) => (items[b].scores[facts.error] ?? 0) - (items[a].scores[facts.error] ?? 0) || a - b,
    doubt: (a, b) => (items[a].chance ?? 1) - (items[b].chance ?? 1) || a - b,
  }[$("sort").value];
  const had = document.activeElement;
  shown = items.map((_, at) => at).filter(passes).sort(order);
  const sheet = $("sheet"), cardsNow = shown.map((at) => cards[at]);
  sheet.replaceChildren(...(shown.length ? cardsNow : [make("li", { className: "nothing", textContent: "No item passes the filter." })]));
  if (shown.length && !shown.includes(current)) point(shown[0]);
  if (cards.includes(had) && had.isConnected) had.focus({ preventScroll: true });
  $("counted").textContent = `${shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")} shown`;
}

function asRows(rows) {
  $("sheet").classList.toggle("rows", rows);
  $("view-rows").setAttribute("aria-pressed", rows);
  $("view-gallery").setAttribute("aria-pressed", !rows);
}

function keepPixels(image) {
  image.classList.toggle("pixels", isSmall(image));
}

function drawLabel(at) {
  const label = givenTo(at), place = cards[at].querySelector(".given");
  place.hidden = label === undefined;
  place.textContent = label === undefined ? "" : labelText(facts.classes, label);
}
