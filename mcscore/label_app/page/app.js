// The labeling page: starts, and hears keys and buttons.

import { clear, exclude, isDeaf, isWaiting, label, save, skip, then, undo } from "./changes.js";
import { firstFound } from "./classes.js";
import { $, listKeys } from "./dom.js";
import { drawPanel, keys, startPanel } from "./panel.js";
import { ask, token } from "./server.js";
import { fit, startStage, zoomBy } from "./stage.js";
import { drafts, isTodo, page, recall } from "./state.js";
import { columns, makeTiles, resize } from "./tiles.js";
import { arrange, go, show, startFilters, step } from "./walk.js";
import { watchWindows } from "./windows.js";

async function start() {
  const { ok, body } = await ask("api/session");
  if (!ok) throw new Error(body.error);
  Object.assign(page, { facts: body, items: body.items, states: body.states.map(([has, excluded]) => ({ label: has, excluded })) });
  document.title = `Label ${body.run.name} · mcscore`;
  $("title").textContent = body.run.name;
  $("source").textContent = body.selection;
  recall();
  startPanel((number) => then(() => label(number)));
  startFilters();
  startStage();
  makeTiles(go, (at) => { go(at); show("one"); });
  arrange();
  go(page.shown.find(isTodo) ?? page.shown[0] ?? 0);
  show("one");
  watchWindows();
}

const inGrid = () => page.view === "grid";
const larger = (by) => (inGrid() ? resize(by) : zoomBy(by));
const press = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1),
  ArrowDown: () => step(inGrid() ? columns() : 1), ArrowUp: () => step(inGrid() ? -columns() : -1),
  Home: () => page.shown.length && go(page.shown[0]), End: () => page.shown.length && go(page.shown.at(-1)),
  " ": skip, Backspace: undo, ",": clear, ".": exclude, Delete: exclude,
  Enter: () => (page.facts.several ? save() : inGrid() ? show("one") : null),
  Escape: () => show(inGrid() ? "one" : "grid"),
  "+": () => larger(1), "=": () => larger(1), "-": () => larger(-1),
};

document.addEventListener("keydown", (event) => {
  if (!page.facts || $("help").open) return;
  const field = event.target.closest?.("input, select, textarea");
  if (field) {
    if (event.key === "Escape") { field.blur(); if (field === $("find")) { field.value = ""; drawPanel(); } event.preventDefault(); }
    return;
  }
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") { event.preventDefault(); return then(undo); }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if ((event.key === " " || event.key === "Enter") && event.target.closest?.("button")) return;
  if (event.key === "?") { event.preventDefault(); return $("help").showModal(); }
  if (event.key === "/") { event.preventDefault(); $("find-form").hidden = false; return $("find").focus(); }
  const number = keys.get(event.key.toLowerCase());
  const what = number !== undefined ? () => label(number) : press[event.key];
  if (!what) return;
  event.preventDefault();
  if (!isDeaf()) then(what);
});

for (const [id, what] of Object.entries({ skip, undo, clear, exclude, save, previous: () => step(-1), next: () => step(1) })) {
  $(id).addEventListener("click", () => then(what));
}
// A button that was clicked must not take the next Space.
document.addEventListener("click", (event) => { if (event.detail > 0 && event.target.closest("button")) document.activeElement?.blur(); });
$("view-one").addEventListener("click", () => show("one"));
$("view-grid").addEventListener("click", () => show("grid"));
$("help-button").addEventListener("click", () => $("help").showModal());
$("filters").addEventListener("click", () => {
  const bar = $("filter-bar");
  bar.hidden = !bar.hidden;
  $("filters").setAttribute("aria-expanded", !bar.hidden);
  fit();
});
$("find-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const number = $("find").value.trim() ? firstFound($("classes"), page.facts.classes, page.facts.named) : null;
  if (number === null) return;
  $("find").value = "";
  $("find").blur();
  then(() => label(number));
});
addEventListener("beforeunload", (event) => { if (drafts.size || isWaiting()) event.preventDefault(); });

listKeys([
  ["1–9, then a–z", "give a class (classes called 0–9 have the key of their name)"], ["/", "find a class by its name"], ["Enter", "save the marked classes, where an item may have several; in the grid, open the item"],
  ["Space", "skip"], ["Backspace, Ctrl Z", "undo"], [",", "take the label away"], [". or Delete", "exclude, or readmit: excluded items are never scored or selected again"],
  ["← → ↑ ↓", "the next item, the one before"], ["Home, End", "the first item, the last"], ["Esc", "one item, or the grid"], ["+ −", "larger, smaller"], ["?", "these keys"],
]);

start().catch((error) => {
  $("gone").textContent = token ? `The page cannot start: ${error.message}` : "The page cannot start: the address has no token.";
  $("gone").hidden = false;
});
