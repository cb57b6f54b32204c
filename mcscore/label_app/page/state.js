// What the page knows. The server holds the labels; `states` is what the page takes each item to have.

import { labelText } from "./words.js";

export const page = {
  facts: null, items: [], states: [], // states[i]: { label, excluded }
  shown: [], current: 0, place: 0, // places of items that are shown, the current one, and where it is, or was, in shown
  view: "one", skipped: new Set(), undos: [],
};
export const drafts = new Map(); // labels that are marked and not saved, where an item may have several
export const others = new Map(); // what another window changed of an item: label or excluded

export const isTodo = (at) => page.states[at].label === null && !page.states[at].excluded;
export const draftOf = (at) => drafts.get(at) ?? page.states[at].label ?? [];
export const textOf = (label) => labelText(page.facts.classes, label);
export const quoted = (label) => (label === null ? "no label" : `“${textOf(label)}”`);

// What is skipped, and what can be undone, outlives a reload of the page.
const kept = () => `mcscore ${page.facts.run.id} ${page.facts.selection}`;
export function remember() {
  sessionStorage.setItem(kept(), JSON.stringify({ skipped: [...page.skipped], undos: page.undos }));
}
export function recall() {
  try {
    const had = JSON.parse(sessionStorage.getItem(kept())), there = (at) => at < page.items.length;
    if (had) [page.skipped, page.undos] = [new Set(had.skipped.filter(there)), had.undos.filter((each) => there(each.at))];
  } catch { /* what an older page kept */ }
}
