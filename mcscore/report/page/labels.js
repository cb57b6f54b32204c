// The labels that are given on this page: kept in this browser, per run and selection, until they are downloaded.

import { same, say } from "./dom.js";
import { facts, items } from "./facts.js";
import { labelText } from "./words.js";

const KEPT = `mcscore labels ${facts.run.id} ${facts.selection}`;
const given = new Map(), undos = [], heard = []; // given: id -> a number, or a sorted list of numbers

recall();

// The label of the item at a place: given here, or the one that it had when the page was written.
export const labelOf = (at) => (given.has(items[at].id) ? given.get(items[at].id) : items[at].label);
export const givenTo = (at) => given.get(items[at].id);
export const countGiven = () => given.size;
export const canUndo = () => undos.length > 0;
export const onLabel = (what) => heard.push(what);

export function give(at, number) {
  if (!facts.several) return put(at, number);
  const had = givenTo(at) ?? [];
  put(at, had.includes(number) ? had.filter((each) => each !== number) : [...had, number].sort((a, b) => a - b));
}

// Takes back what was given here.
export const clear = (at) => put(at, undefined);

export function undo() {
  const last = undos.pop();
  if (!last) return say("There is nothing to undo.");
  put(last.at, last.had, false);
  const had = last.had === undefined ? "what it had" : `“${labelText(facts.classes, last.had)}”`;
  say(`Undone: item ${items[last.at].id} has ${had} again.`);
  return last.at;
}

// Rows of [item, label], in the order of the selection.
export const rows = () => items.flatMap((item, at) => (given.has(item.id) ? [[item, givenTo(at)]] : []));

function put(at, label, undoable = true) {
  const had = givenTo(at), { id } = items[at];
  if (same(had, label)) return;
  if (label === undefined) given.delete(id);
  else given.set(id, label);
  if (undoable) undos.push({ at, had });
  keep();
  for (const what of heard) what(at);
}

function keep() {
  try {
    if (given.size) localStorage.setItem(KEPT, JSON.stringify([...given]));
    else localStorage.removeItem(KEPT);
  } catch {
    say("This browser keeps nothing for this page: download the labels before you close it.", true);
  }
}

function recall() {
  try {
    const known = new Set(items.map((item) => item.id));
    for (const [id, label] of JSON.parse(localStorage.getItem(KEPT)) ?? []) if (known.has(id)) given.set(id, label);
  } catch { /* a browser that keeps nothing for files, or what an older page kept */ }
}
