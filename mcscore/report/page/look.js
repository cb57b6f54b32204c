// One item, large: its picture, what the run tells of it, and the classes that it can be given.

import { classButtons, firstFound, foundClasses } from "./classes.js";
import { $, make } from "./dom.js";
import { cards, facts, items, labelable } from "./facts.js";
import { current, go, shown } from "./gallery.js";
import { give, labelOf, onLabel } from "./labels.js";
import { className, figure, labelText, percent } from "./words.js";

const MANY = 12; // classes, from which on there is a field to find one

export function startLook(keys) {
  const pick = (number) => { give(current, number); };
  const draw = () => { if ($("look").open) drawLook(keys, pick); };
  $("sheet").addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card && !event.target.closest("a")) openLook(Number(card.dataset.id), draw);
  });
  $("look").addEventListener("close", () => cards[current]?.focus());
  $("close").addEventListener("click", () => $("look").close());
  $("find").addEventListener("input", draw);
  $("find-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const number = $("find").value.trim() ? firstFound($("classes"), facts.classes, facts.named) : null;
    if (number === null) return;
    $("find").value = "";
    $("find").blur();
    pick(number);
    draw();
  });
  onLabel(draw);
  return { open: () => openLook(items[current].id, draw), draw };
}

function openLook(id, draw) {
  go(items.findIndex((item) => item.id === id));
  $("find").value = "";
  $("look").showModal();
  $("look").focus();
  draw();
}

function drawLook(keys, pick) {
  const item = items[current], card = cards[current], label = labelable ? labelOf(current) : null;
  const picture = card.querySelector(".item")?.cloneNode(true);
  $("look-picture").replaceChildren(...(picture ? [picture] : [make("p", { className: "note", textContent: "no picture" })]));
  const name = make("h2", { id: "look-name" }, `#${item.id}`);
  if (labelable) name.append(make("span", { textContent: label === null ? "no label yet" : labelText(facts.classes, label) }));
  const rows = [name];
  if (item.key) rows.push(make("div", { className: "key", textContent: item.key }));
  if (item.original) rows.push(make("a", { href: item.original, target: "_blank", rel: "noopener noreferrer", textContent: "Open the original" }));
  rows.push(guess(item));
  const scores = make("dl", { className: "scores" });
  const error = (score) => (score === facts.by && facts.error ? ` ± ${figure(item.scores[facts.error])}` : "");
  for (const [score, title] of facts.scores) scores.append(make("div", {}, make("dt", { textContent: title }), make("dd", { textContent: figure(item.scores[score]) + error(score) })));
  rows.push(scores);
  $("look-facts").replaceChildren(...rows);
  $("place").textContent = shown.includes(current) ? `${(shown.indexOf(current) + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "not in the filter";
  $("find-form").hidden = !labelable || (facts.classes.length <= MANY && facts.named);
  const on = label === null ? [] : Array.isArray(label) ? label : [label];
  $("classes").replaceChildren(...(labelable ? classButtons(facts.classes, foundClasses(facts.classes, facts.named, $("find").value), item, on, keys, pick) : []));
}

function guess(item) {
  const said = (number) => (labelable ? className(facts.classes, number) : figure(number));
  const first = item.chance;
  const second = item.guesses?.find(([number]) => number !== item.prediction);
  const line = make("div", {}, labelable ? "Model: " : "Predicts ", make("b", { textContent: item.prediction === null ? "nothing" : said(item.prediction) }));
  if (first !== null) line.append(` ${percent(first)}`);
  if (second) line.append(", or ", make("b", { textContent: said(second[0]) }), ` ${percent(second[1])}`);
  else if (labelable) line.append(make("span", { className: "note", textContent: first === null ? " (probabilities: not kept)" : " (second class: not kept)" }));
  return line;
}
