// What stands beside the item: what the run tells of it, its label, and the classes to choose from.

import { classButtons, classKeys, foundClasses } from "./classes.js";
import { $, make } from "./dom.js";
import { draftOf, drafts, others, page, textOf } from "./state.js";
import { drawTile } from "./tiles.js";
import { figure, percent, title } from "./words.js";

const MANY = 12; // classes, from which on there is a field to find one
export let keys = new Map();
let pick;

// give(number): what a click on a class does.
export function startPanel(give) {
  pick = give;
  keys = classKeys(page.facts.classes);
  $("save").hidden = !page.facts.several;
  $("find").addEventListener("input", drawPanel);
}

export function refresh(at) {
  drawTile(at);
  drawProgress();
  if (at === page.current) drawPanel();
}

export function drawProgress() {
  const { states, items } = page, told = (n) => n.toLocaleString("en");
  const labeled = states.filter((state) => state.label !== null).length, excluded = states.filter((state) => state.excluded && state.label === null).length;
  const left = items.length - labeled - excluded, also = excluded ? `, ${excluded} excluded` : "";
  $("bar").style.width = `${(100 * (labeled + excluded)) / Math.max(1, items.length)}%`;
  $("progress").textContent = `${told(labeled)} of ${told(items.length)} labeled${also}`;
  $("done").hidden = left > 0;
  if (left === 0) $("done").textContent = `Nothing is left to do: ${told(labeled)} labeled${also}. All of it is saved; Ctrl-C in the terminal ends the server.`;
}

export function drawPanel() {
  const { current, facts, shown } = page, item = page.items[current];
  if (!item) return;
  const { label, excluded } = page.states[current], draft = drafts.get(current);
  const on = facts.several ? draftOf(current) : label === null ? [] : [label];
  const state = excluded ? "excluded" : label !== null ? textOf(label) : page.skipped.has(current) ? "skipped" : "no label yet";
  const rows = [
    make("div", { className: "name" }, make("b", { textContent: `#${item.id}` }), make("span", { className: `state ${excluded ? "excluded" : label !== null ? "labeled" : ""}`, textContent: state })),
  ];
  if (item.key) rows.push(make("div", { className: "key", textContent: item.key, title: item.key }));
  rows.push(make("div", { className: "scores", textContent: Object.entries(item.scores).slice(0, 3).map(([name, value]) => `${title(name)} ${figure(value)}`).join(" · ") }));
  rows.push(guessOf(item));
  if (others.has(current)) rows.push(make("div", { className: "other", textContent: others.get(current) === "label" ? "Labeled in another window." : "Changed in another window." }));
  if (draft) rows.push(make("div", { className: "other", textContent: "Not saved yet: Enter saves." }));
  $("facts").replaceChildren(...rows);
  $("classes").replaceChildren(...classButtons(facts.classes, foundClasses(facts.classes, facts.named, $("find").value), item, on, keys, pick));
  const inUse = document.activeElement === $("find") || $("find").value; // hidden, it would leave the next letters to the keys of classes
  $("find-form").hidden = !inUse && facts.classes.length <= MANY && facts.named;
  $("save").firstElementChild.textContent = on.length ? "Save" : "None of these";
  $("exclude").firstElementChild.textContent = excluded ? "Readmit" : "Exclude";
  $("undo").disabled = !page.undos.length;
  $("clear").disabled = label === null;
  $("place").textContent = shown.includes(current) ? `${(page.place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "not in the filter";
}

function guessOf(item) {
  const first = item.guesses?.find(([number]) => number === item.prediction), second = item.guesses?.find(([number]) => number !== item.prediction);
  const line = make("div", { className: "guess" }, "Model: ", make("b", { textContent: item.prediction === null ? "none" : textOf(item.prediction) }));
  if (first) line.append(` ${percent(first[1])}`);
  if (second) line.append(", or ", make("b", { textContent: textOf(second[0]) }), ` ${percent(second[1])}`);
  return line;
}
