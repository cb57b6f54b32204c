// Labels and exclusions that are given here. Every change says what it takes the item to have.

import { $, same, say } from "./dom.js";
import { refresh } from "./panel.js";
import { ask } from "./server.js";
import { draftOf, drafts, isTodo, others, page, quoted, remember } from "./state.js";
import { go, onward } from "./walk.js";

const me = `w-${Math.random().toString(36).slice(2, 10)}`;
let line = Promise.resolve(), waiting = 0, stopped = false, deaf = 0; // deaf: until when keys are not heard

export const isWaiting = () => waiting > 0;
export const isDeaf = () => performance.now() < deaf;

// Keys may be pressed faster than a label becomes durable: changes wait for each other, and for which item is next.
export function then(what) {
  if (stopped) return;
  waiting++;
  line = line.then(() => (stopped ? null : what())).catch(unreachable).finally(() => { if (--waiting === 0) stopped = false; });
}

// Something was not saved: keys that were pressed since, or are just being pressed, were meant for what would have been next.
function halt() {
  stopped = waiting > 1;
  deaf = performance.now() + 700;
}

function unreachable(error) {
  halt();
  if (error instanceof TypeError) $("gone").hidden = false; // what fetch raises where nobody answers
  else reportError(error);
}

// Changes one item. True if it is done; otherwise the page shows what the item has, and why.
async function change(at, field, value, undoing = false) {
  const { id } = page.items[at], had = page.states[at][field];
  if (same(had, value)) return true;
  const answer = await ask("api/give", { method: "POST", body: JSON.stringify({ id, field, had, value, window: me }) });
  $("gone").hidden = true;
  if (answer.status === 409) {
    const { changed } = answer.body;
    page.states[at][field] = changed;
    others.set(at, field);
    halt();
    const now = field === "label" ? `labeled ${quoted(changed)}` : changed ? "excluded" : "readmitted";
    say(`Item ${id} was ${now} in another window meanwhile. Yours was not saved; give it again to replace that.`, true);
    drafts.delete(at);
    refresh(at);
    return false;
  }
  if (!answer.ok) {
    halt();
    say(`Not saved: ${answer.body.error}`, true);
    return false;
  }
  page.states[at][field] = answer.body.value;
  if (!undoing) page.undos.push({ at, field, had, value: answer.body.value });
  others.delete(at);
  page.skipped.delete(at);
  drafts.delete(at);
  remember();
  refresh(at);
  return true;
}

export async function label(number) {
  if (page.facts.several) return toggle(number);
  const at = page.current;
  if (await change(at, "label", number)) onward(at);
}

function toggle(number) {
  const at = page.current, had = draftOf(at);
  const now = had.includes(number) ? had.filter((each) => each !== number) : [...had, number].sort((a, b) => a - b);
  if (same(now, page.states[at].label)) drafts.delete(at);
  else drafts.set(at, now);
  refresh(at);
}

export async function save() {
  const at = page.current;
  if (await change(at, "label", draftOf(at))) onward(at);
}

export async function exclude() {
  const at = page.current, value = !page.states[at].excluded;
  if (await change(at, "excluded", value) && value) onward(at);
}

export async function clear() {
  await change(page.current, "label", null);
}

export async function undo() {
  const last = page.undos.pop();
  if (!last) return say("There is nothing to undo in this window.");
  const { at, field, had, value } = last, { id } = page.items[at];
  go(at);
  if (!same(page.states[at][field], value)) {
    remember();
    return say(`Not undone: item ${id} was changed in another window since.`, true);
  }
  if (await change(at, field, had, true)) say(`Undone: item ${id} has ${field === "label" ? quoted(had) : had ? "been excluded again" : "been readmitted"}.`);
  else if (page.states[at][field] === value) page.undos.push(last); // it failed, and is as it was
  remember();
}

export function skip() {
  const at = page.current;
  if (isTodo(at)) page.skipped.add(at);
  drafts.delete(at);
  remember();
  refresh(at);
  onward(at);
}
