// What other windows and processes gave, looked at every second or so.

import { isWaiting } from "./changes.js";
import { $, same, say } from "./dom.js";
import { refresh } from "./panel.js";
import { ask } from "./server.js";
import { others, page, quoted } from "./state.js";

const POLL = 1500; // milliseconds

export const watchWindows = () => setInterval(look, POLL);

async function look() {
  if (document.hidden || isWaiting()) return;
  let answer;
  try {
    answer = await ask("api/states");
  } catch {
    $("gone").hidden = false;
    return;
  }
  if (!answer.ok || isWaiting()) return; // a change of our own came between
  $("gone").hidden = true;
  answer.body.forEach(([label, excluded], at) => {
    const now = { label, excluded };
    if (same(now, page.states[at])) return;
    others.set(at, same(label, page.states[at].label) ? "excluded" : "label");
    page.states[at] = now;
    page.skipped.delete(at);
    refresh(at);
    if (at === page.current) say(`Another window changed item ${page.items[at].id}: ${excluded ? "excluded" : quoted(label)}.`, true);
  });
}
