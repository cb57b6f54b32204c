// The report's interaction. Without it, the page shows the same figures and items.

import { classKeys } from "./classes.js";
import { $, listKeys } from "./dom.js";
import { download } from "./csv.js";
import { startBrushes } from "./brush.js";
import { facts, items, labelable } from "./facts.js";
import { across, after, current, go, shown, startGallery } from "./gallery.js";
import { canUndo, clear, countGiven, give, onLabel, rows, undo } from "./labels.js";
import { startLook } from "./look.js";
import { startPoints } from "./points.js";

const keys = labelable ? classKeys(facts.classes) : new Map();
if (items.length) start();

function start() {
  document.documentElement.classList.add("live");
  for (const element of document.querySelectorAll(".of-classes")) element.hidden = !labelable;
  startGallery();
  const look = startLook(keys);
  startPoints((at) => { go(at); look.open(); });
  startBrushes();
  onLabel(drawGiven);
  drawGiven();
  $("download").addEventListener("click", () => download(rows()));
  $("undo").addEventListener("click", undo);
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("previous").addEventListener("click", () => walk(-1));
  $("next").addEventListener("click", () => walk(1));
  listKeys([
    ["Enter", "open the item"], ["← → ↑ ↓", "the next item, the one before"], ["Home, End", "the first item, the last"], ["Esc", "close the item"],
    ...(labelable ? [["1–9, then a–z", "give a class (classes called 0–9 have the key of their name)"], [",", "take back the label that was given here"], ["Backspace", "undo"]] : []),
    ["/", "find items by a text in their key; in an open item, a class by its name"], ["?", "these keys"],
  ]);

  const press = {
    ArrowRight: () => walk(1), ArrowLeft: () => walk(-1), ArrowDown: () => walk($("look").open ? 1 : across()), ArrowUp: () => walk($("look").open ? -1 : -across()),
    Home: () => step(shown[0]), End: () => step(shown.at(-1)), Enter: look.open, ",": () => clear(current), Backspace: back,
  };
  document.addEventListener("keydown", (event) => {
    if ($("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest?.("input, select, textarea");
    if (field) {
      if (event.key === "Escape") { field.blur(); event.preventDefault(); if ($("look").open) $("look").focus(); }
      return;
    }
    if (event.key === "?") { event.preventDefault(); return $("help").showModal(); }
    if (event.key === "/") { event.preventDefault(); return find(); }
    const open = $("look").open, here = open || event.target.closest?.("#sheet .card");
    if (!here || !shown.length || (event.key === "Enter" && (open || event.target.closest("a, button")))) return;
    const number = keys.get(event.key.toLowerCase());
    const what = number === undefined ? press[event.key] : () => label(number);
    if (!what) return;
    event.preventDefault();
    what();
  });

  function step(at) {
    go(at);
    look.draw();
  }
  function walk(by) {
    step(after(by));
  }
  function label(number) {
    give(current, number);
    if (!facts.several) walk(1);
  }
  function back() {
    const at = undo();
    if (at !== undefined && shown.includes(at)) step(at);
  }
  function find() {
    if (!$("look").open) return $("f-key").focus();
    $("find-form").hidden = !labelable;
    $("find").focus();
  }
}

function drawGiven() {
  const n = countGiven();
  $("given").textContent = n ? `${n.toLocaleString("en")} of ${items.length.toLocaleString("en")} labeled here` : "Class keys give labels to the item that has the focus.";
  $("download").disabled = n === 0;
  $("undo").disabled = !canUndo();
}
