// The items as a grid.

import { draw } from "./content.js";
import { $, make } from "./dom.js";
import { drafts, page, textOf } from "./state.js";

const SIZES = [88, 120, 160, 220, 300]; // pixels
export let tiles = [];
let size = 2;

// go(at): what a click does; open(at): a double click.
export function makeTiles(go, open) {
  tiles = page.items.map((item, at) => {
    const element = make("li", { className: "tile" }, draw(item, page.facts.kind, false), make("div", { className: "said" }));
    element.dataset.id = item.id;
    element.title = `item ${item.id}${item.key ? `, ${item.key}` : ""}`;
    element.addEventListener("click", () => go(at));
    element.addEventListener("dblclick", () => open(at));
    return element;
  });
  tiles.forEach((_, at) => drawTile(at));
}

export function drawTile(at) {
  const { label, excluded } = page.states[at], draft = drafts.get(at), { prediction } = page.items[at];
  const state = excluded ? "excluded" : draft ? "draft" : label !== null ? "labeled" : page.skipped.has(at) ? "skipped" : "todo";
  tiles[at].dataset.state = state;
  tiles[at].querySelector(".said").textContent = {
    excluded: "excluded", draft: draft && `${textOf(draft)} · not saved`, labeled: textOf(label), skipped: "skipped",
    todo: prediction === null ? "" : `${textOf(prediction)}?`,
  }[state];
}

// Tiles in a row.
export function columns() {
  const first = tiles[page.shown[0]]?.offsetTop, next = page.shown.findIndex((at) => tiles[at].offsetTop !== first);
  return next < 1 ? Math.max(1, page.shown.length) : next;
}

export function resize(by) {
  size = Math.min(Math.max(size + by, 0), SIZES.length - 1);
  $("grid").style.setProperty("--tile", `${SIZES[size]}px`);
}
