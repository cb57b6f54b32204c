// The labeling page. The server holds the labels; the page shows them, and says with every change what it took the item to have.

import { ask, draw, isSmall, make, pictureOf, token } from "./look.js";

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const POLL = 1500; // milliseconds between two looks at what other windows gave
const SMALL_SIDE = 480; // on the page, of a picture of few pixels, before it is zoomed: larger squares are harder to see as a whole
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8], TILES = [88, 120, 160, 220, 300];
const $ = (id) => document.getElementById(id);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

let facts, items, states; // states[i]: { label, excluded } as far as the page knows
let tiles = [], shown = [], current = 0, place = 0; // place: of the current item in shown, or where it was
let zoom = 0, tile = 2, view = "one";
let skipped = new Set(), undos = [], drafts = new Map(), others = new Map(), keyOf = new Map();
let line = Promise.resolve(), pending = 0, stopped = false, deaf = 0; // deaf: until when keys are not heard
const me = `w-${Math.random().toString(36).slice(2, 10)}`;

// ---- words -----------------------------------------------------------------------------------------------------------

const className = (number) => facts.classes[number]?.trim() ? facts.classes[number] : String(number);
const title = (score) => (score === "bald" ? "BALD" : score.replaceAll("_", " "));
const figure = (value) => (value === null ? "none" : Math.abs(value) >= 0.001 || value === 0 ? value.toPrecision(3) : value.toExponential(1));
const percent = (p) => `${(100 * p).toFixed(p >= 0.1 ? 0 : 1)} %`;
function labelText(label) {
  if (label === null) return "no label";
  if (!Array.isArray(label)) return className(label);
  return label.length ? label.map(className).join(", ") : "none of the classes";
}
const quoted = (label) => (label === null ? "no label" : `“${labelText(label)}”`);

function say(text, bad = false) {
  const toast = $("toast");
  toast.textContent = text;
  toast.className = bad ? "bad show" : "show";
  clearTimeout(say.timer);
  say.timer = setTimeout(() => toast.classList.remove("show"), bad ? 9000 : 2600);
}

// ---- start -----------------------------------------------------------------------------------------------------------

async function start() {
  const { ok, body } = await ask("api/session");
  if (!ok) throw new Error(body.error);
  facts = body;
  items = facts.items;
  states = facts.states.map(([label, excluded]) => ({ label, excluded }));
  document.title = `Label ${facts.run.name} · mcscore`;
  $("title").textContent = facts.run.name;
  $("source").textContent = facts.selection;
  $("save").hidden = !facts.several;
  recall();
  giveKeys();
  fillFilters();
  tiles = items.map(makeTile);
  arrange();
  const todo = shown.findIndex(isTodo);
  go(shown[Math.max(0, todo)] ?? 0);
  show("one");
  setInterval(look, POLL);
}

// The first nine classes have the keys 1-9, the next ones letters; classes that are called 0-9 have the key of their name.
function giveKeys() {
  const digits = facts.classes.length <= 10 && facts.classes.every((name) => /^[0-9]$/.test(name));
  facts.classes.forEach((name, number) => {
    const key = digits ? name : number < 9 ? String(number + 1) : LETTERS[number - 9];
    if (key) keyOf.set(key, number);
  });
}
const keyFor = (number) => [...keyOf].find(([, other]) => other === number)?.[0] ?? "";

// What is skipped, and what can be undone, outlives a reload of the page.
function remember() {
  sessionStorage.setItem(`mcscore ${facts.run.id} ${facts.selection}`, JSON.stringify({ skipped: [...skipped], undos }));
}
function recall() {
  try {
    const had = JSON.parse(sessionStorage.getItem(`mcscore ${facts.run.id} ${facts.selection}`));
    if (had) [skipped, undos] = [new Set(had.skipped.filter((i) => i < items.length)), had.undos.filter((each) => each.at < items.length)];
  } catch { /* what an older page kept */ }
}

// ---- changes ---------------------------------------------------------------------------------------------------------

// Keys may be pressed faster than a label becomes durable: changes wait for each other, and for which item is next.
function then(what) {
  if (stopped) return;
  pending++;
  line = line.then(() => (stopped ? null : what())).catch(unreachable).finally(() => { if (--pending === 0) stopped = false; });
}

// Something was not saved: keys that were pressed since, or are just being pressed, were meant for what would have been next.
function halt() {
  stopped = pending > 1;
  deaf = performance.now() + 700;
}

function unreachable(error) {
  halt();
  if (error instanceof TypeError) $("gone").hidden = false; // what fetch raises where nobody answers
  else reportError(error);
}

// Changes one item. True if it is done; otherwise the page shows what the item has, and why.
async function change(at, field, value, undoing = false) {
  const had = states[at][field];
  if (same(had, value)) return true;
  const body = JSON.stringify({ id: items[at].id, field, had, value, window: me });
  const answer = await ask("api/give", { method: "POST", body });
  $("gone").hidden = true;
  if (answer.status === 409) {
    states[at][field] = answer.body.changed;
    others.set(at, field);
    halt();
    const now = field === "label" ? `labeled ${quoted(answer.body.changed)}` : answer.body.changed ? "excluded" : "readmitted";
    say(`Item ${items[at].id} was ${now} in another window meanwhile. Yours was not saved; give it again to replace that.`, true);
    drafts.delete(at);
    refresh(at);
    return false;
  }
  if (!answer.ok) {
    halt();
    say(`Not saved: ${answer.body.error}`, true);
    return false;
  }
  states[at][field] = answer.body.value;
  if (!undoing) undos.push({ at, field, had, value: answer.body.value });
  others.delete(at);
  skipped.delete(at);
  drafts.delete(at);
  remember();
  refresh(at);
  return true;
}

async function label(number) {
  if (facts.several) return toggle(number);
  const at = current;
  if (await change(at, "label", number)) onward(at);
}

function toggle(number) {
  const had = draftOf(current);
  const now = had.includes(number) ? had.filter((each) => each !== number) : [...had, number].sort((a, b) => a - b);
  if (same(now, states[current].label)) drafts.delete(current);
  else drafts.set(current, now);
  refresh(current);
}
const draftOf = (at) => drafts.get(at) ?? states[at].label ?? [];

async function save() {
  const at = current;
  if (await change(at, "label", draftOf(at))) onward(at);
}

async function exclude() {
  const at = current, value = !states[at].excluded;
  if (await change(at, "excluded", value) && value) onward(at);
}

async function clear() {
  await change(current, "label", null);
}

async function undo() {
  const last = undos.at(-1);
  if (!last) return say("There is nothing to undo in this window.");
  undos.pop();
  go(last.at);
  if (!same(states[last.at][last.field], last.value)) {
    remember();
    return say(`Not undone: item ${items[last.at].id} was changed in another window since.`, true);
  }
  if (await change(last.at, last.field, last.had, true)) say(`Undone: item ${items[last.at].id} has ${last.field === "label" ? quoted(last.had) : last.had ? "been excluded again" : "been readmitted"}.`);
  else if (states[last.at][last.field] === last.value) undos.push(last); // it failed, and is as it was
  remember();
}

function skip() {
  if (isTodo(current)) skipped.add(current);
  drafts.delete(current);
  remember();
  refresh(current);
  onward(current);
}

// ---- where we are ----------------------------------------------------------------------------------------------------

const isTodo = (at) => states[at].label === null && !states[at].excluded;

// The next item to do after one that is finished; those that were skipped come last.
function onward(from) {
  const at = shown.indexOf(from), first = at < 0 ? place : at + 1;
  const after = [...shown.slice(first), ...shown.slice(0, first)];
  const next = after.find((i) => isTodo(i) && !skipped.has(i) && i !== from) ?? after.find((i) => isTodo(i) && i !== from);
  if (next !== undefined) return go(next);
  arrange();
  go(shown[Math.min(first, shown.length - 1)] ?? from);
}

function step(by) {
  const at = shown.indexOf(current);
  const next = at < 0 ? place + (by > 0 ? by - 1 : by) : at + by;
  if (shown.length) go(shown[Math.min(Math.max(next, 0), shown.length - 1)]);
}

function go(at) {
  tiles[current]?.classList.remove("current");
  current = at;
  zoom = 0;
  arrange();
  tiles[at].classList.add("current");
  if (view === "grid") tiles[at].scrollIntoView({ block: "nearest" });
  drawStage();
  drawPanel();
  for (const next of shown.slice(place + 1, place + 3)) if (facts.kind === "image") new Image().src = pictureOf(items[next].id);
}

function columns() {
  const first = tiles[shown[0]]?.offsetTop;
  const count = shown.findIndex((i) => tiles[i].offsetTop !== first);
  return count < 1 ? Math.max(1, shown.length) : count;
}

function show(which) {
  view = which;
  document.body.className = which;
  $("view-one").setAttribute("aria-pressed", which === "one");
  $("view-grid").setAttribute("aria-pressed", which === "grid");
  if (which === "one") drawStage();
  else tiles[current]?.scrollIntoView({ block: "center" });
}

// ---- filter and sort -------------------------------------------------------------------------------------------------

function fillFilters() {
  const choices = () => [new Option("any class", ""), ...facts.classes.map((_, number) => new Option(className(number), number))];
  $("f-predicted").append(...choices());
  $("f-label").append(...choices());
  $("f-score").append(...Object.keys(items[0]?.scores ?? {}).map((name) => new Option(title(name), name)));
  $("filter-bar").addEventListener("input", refilter);
  $("filter-bar").addEventListener("submit", (event) => event.preventDefault());
  $("filter-bar").addEventListener("reset", () => setTimeout(refilter));
}

function refilter() {
  arrange();
  if (shown.length && !shown.includes(current)) go(shown[0]);
  else drawPanel();
}

function passes(at) {
  const { label: has, excluded } = states[at], item = items[at], score = item.scores[$("f-score").value];
  const is = (number) => (Array.isArray(has) ? has.includes(number) : has === number);
  const of = {
    all: true, todo: isTodo(at), labeled: has !== null, skipped: skipped.has(at), excluded,
    differs: has !== null && item.prediction !== null && !is(item.prediction),
  };
  if (!of[$("f-show").value]) return false;
  if ($("f-predicted").value !== "" && item.prediction !== Number($("f-predicted").value)) return false;
  if ($("f-label").value !== "" && !is(Number($("f-label").value))) return false;
  if ($("f-low").value !== "" && !(score >= Number($("f-low").value))) return false;
  return $("f-high").value === "" || (score !== null && score <= Number($("f-high").value));
}

function arrange() {
  const by = $("f-score").value, score = (at) => items[at].scores[by] ?? -Infinity;
  const orders = {
    rank: (a, b) => a - b, high: (a, b) => score(b) - score(a) || a - b, low: (a, b) => score(a) - score(b) || a - b,
    predicted: (a, b) => (items[a].prediction ?? -1) - (items[b].prediction ?? -1) || a - b, id: (a, b) => items[a].id - items[b].id,
  };
  const now = items.map((_, at) => at).filter(passes).sort(orders[$("f-sort").value]);
  if (!same(now, shown) || !$("grid").childElementCount) {
    shown = now;
    $("grid").replaceChildren(...(shown.length ? shown.map((at) => tiles[at]) : [make("li", { className: "nothing", textContent: "No item passes the filter." })]));
  }
  const at = shown.indexOf(current);
  if (at >= 0) place = at;
  const plain = ["f-predicted", "f-label", "f-low", "f-high"].every((id) => $(id).value === "") && $("f-show").value === "all";
  $("filtered").hidden = plain;
  $("filtered").textContent = shown.length.toLocaleString("en");
  drawProgress();
}

// ---- drawing ---------------------------------------------------------------------------------------------------------

function refresh(at) {
  drawTile(at);
  drawProgress();
  if (at === current) drawPanel();
}

function makeTile(item, at) {
  const said = make("div", { className: "said" });
  const element = make("li", { className: "tile" }, draw(item, facts.kind, false), said);
  element.dataset.id = item.id;
  element.addEventListener("click", () => go(at));
  element.addEventListener("dblclick", () => { go(at); show("one"); });
  tiles[at] = element;
  drawTile(at, said);
  return element;
}

function drawTile(at, said = tiles[at].querySelector(".said")) {
  const { label: has, excluded } = states[at], draft = drafts.get(at);
  const state = excluded ? "excluded" : draft ? "draft" : has !== null ? "labeled" : skipped.has(at) ? "skipped" : "todo";
  tiles[at].dataset.state = state;
  const text = {
    excluded: "excluded", draft: `${draft ? labelText(draft) : ""} · not saved`, labeled: labelText(has), skipped: "skipped",
    todo: items[at].prediction === null ? "" : `${className(items[at].prediction)}?`,
  }[state];
  said.textContent = text;
  tiles[at].title = `item ${items[at].id}${items[at].key ? `, ${items[at].key}` : ""}`;
}

function drawProgress() {
  const labeled = states.filter((state) => state.label !== null).length, excluded = states.filter((state) => state.excluded && state.label === null).length;
  const left = items.length - labeled - excluded;
  $("bar").style.width = `${(100 * (labeled + excluded)) / Math.max(1, items.length)}%`;
  $("progress").textContent = `${labeled.toLocaleString("en")} of ${items.length.toLocaleString("en")} labeled${excluded ? `, ${excluded} excluded` : ""}`;
  $("done").hidden = left > 0;
  if (left === 0) $("done").textContent = `Nothing is left to do: ${labeled.toLocaleString("en")} labeled${excluded ? `, ${excluded} excluded` : ""}. All of it is saved; Ctrl-C in the terminal ends the server.`;
}

function drawStage() {
  const stage = $("stage"), item = items[current];
  if (!item || view !== "one") return;
  if (stage.dataset.id !== String(item.id) || !stage.firstChild) {
    stage.dataset.id = item.id;
    const drawn = draw(item, facts.kind, true);
    stage.replaceChildren(drawn);
    if (drawn.tagName === "IMG") {
      stage.classList.add("loading");
      drawn.addEventListener("load", () => { stage.classList.remove("loading"); fit(); });
    }
  }
  fit();
}

function fit() {
  const stage = $("stage"), image = stage.querySelector("img");
  const factor = ZOOMS[zoom];
  stage.classList.toggle("zoomed", zoom > 0);
  if (!image) return stage.style.setProperty("--zoom", factor);
  if (!image.naturalWidth) return;
  const room = [stage.clientWidth - 24, stage.clientHeight - 24];
  const most = isSmall(image) ? SMALL_SIDE / Math.max(image.naturalWidth, image.naturalHeight) : Infinity;
  const scale = Math.min(room[0] / image.naturalWidth, room[1] / image.naturalHeight, most) * factor;
  image.style.width = `${Math.round(image.naturalWidth * scale)}px`;
  image.style.height = `${Math.round(image.naturalHeight * scale)}px`;
  image.classList.toggle("pixels", isSmall(image) || (zoom > 0 && scale >= 4));
}

function larger(by) {
  if (view === "grid") {
    tile = Math.min(Math.max(tile + by, 0), TILES.length - 1);
    $("grid").style.setProperty("--tile", `${TILES[tile]}px`);
    return;
  }
  const stage = $("stage"), before = ZOOMS[zoom];
  const middle = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
  zoom = Math.min(Math.max(zoom + by, 0), ZOOMS.length - 1);
  fit();
  const grown = ZOOMS[zoom] / before;
  stage.scrollTo(middle[0] * grown - stage.clientWidth / 2, middle[1] * grown - stage.clientHeight / 2);
}

function drawPanel() {
  const item = items[current], { label: has, excluded } = states[current];
  if (!item) return;
  const draft = drafts.get(current), on = facts.several ? draftOf(current) : has === null ? [] : [has];
  const second = item.guesses?.find(([number]) => number !== item.prediction);
  const state = excluded ? "excluded" : has !== null ? labelText(has) : skipped.has(current) ? "skipped" : "no label yet";
  const scores = Object.entries(item.scores).slice(0, 3).map(([name, value]) => `${title(name)} ${figure(value)}`).join(" · ");
  const rows = [
    make("div", { className: "name" }, make("b", { textContent: `#${item.id}` }), make("span", { className: `state ${excluded ? "excluded" : has !== null ? "labeled" : ""}`, textContent: state })),
  ];
  if (item.key) rows.push(make("div", { className: "key", textContent: item.key, title: item.key }));
  rows.push(make("div", { className: "scores", textContent: scores }));
  const guess = make("div", { className: "guess" }, "Model: ", make("b", { textContent: item.prediction === null ? "none" : className(item.prediction) }));
  const first = item.guesses?.find(([number]) => number === item.prediction);
  if (first) guess.append(` ${percent(first[1])}`);
  if (second) guess.append(", or ", make("b", { textContent: className(second[0]) }), ` ${percent(second[1])}`);
  rows.push(guess);
  if (others.has(current)) rows.push(make("div", { className: "other", textContent: others.get(current) === "label" ? "Labeled in another window." : "Changed in another window." }));
  if (draft) rows.push(make("div", { className: "other", textContent: "Not saved yet: Enter saves." }));
  $("facts").replaceChildren(...rows);
  drawClasses(item, on, second?.[0]);
  $("save").firstElementChild.textContent = on.length ? "Save" : "None of these";
  $("exclude").firstElementChild.textContent = excluded ? "Readmit" : "Exclude";
  $("undo").disabled = !undos.length;
  $("clear").disabled = has === null;
  $("place").textContent = shown.includes(current) ? `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "not in the filter";
}

function drawClasses(item, on, second) {
  const wanted = $("find").value.trim().toLowerCase(), chance = new Map(item.guesses ?? []);
  const found = facts.classes.map((_, number) => number).filter((number) => className(number).toLowerCase().includes(wanted));
  found.sort((a, b) => rankOf(a, wanted) - rankOf(b, wanted) || a - b);
  if (!facts.named && /^[0-9]{1,9}$/.test(wanted) && !facts.classes.includes(wanted)) found.unshift(Number(wanted));
  const buttons = found.slice(0, 200).map((number) => {
    const p = chance.get(number), key = keyFor(number);
    const button = make("button", { type: "button", className: "class" }, make("kbd", { textContent: key || " " }), make("span", { className: "name", textContent: className(number) }));
    button.dataset.number = number;
    button.setAttribute("aria-pressed", on.includes(number));
    if (p !== undefined) {
      button.style.setProperty("--p", p);
      button.append(make("span", { className: "p", textContent: percent(p) }));
    } else if (number === item.prediction) button.append(make("span", { className: "p", textContent: "model" }));
    if (number === item.prediction) button.classList.add("predicted");
    else if (number === second) button.classList.add("second");
    button.addEventListener("click", () => then(() => label(number)));
    return make("li", {}, button);
  });
  if (!found.length) buttons.push(make("li", { className: "nothing", textContent: "No such class." }));
  $("classes").replaceChildren(...buttons);
  $("find-form").hidden = facts.classes.length <= 12 && facts.named;
}
const rankOf = (number, wanted) => (className(number).toLowerCase() === wanted ? 0 : className(number).toLowerCase().startsWith(wanted) ? 1 : 2);

// ---- other windows ---------------------------------------------------------------------------------------------------

async function look() {
  if (document.hidden || pending) return;
  let answer;
  try {
    answer = await ask("api/states");
  } catch {
    $("gone").hidden = false;
    return;
  }
  if (!answer.ok || pending) return; // a change of our own came between
  $("gone").hidden = true;
  answer.body.forEach(([has, excluded], at) => {
    const now = { label: has, excluded };
    if (same(now, states[at])) return;
    others.set(at, same(has, states[at].label) ? "excluded" : "label");
    states[at] = now;
    skipped.delete(at);
    refresh(at);
    if (at === current) say(`Another window changed this item: ${excluded ? "excluded" : quoted(has)}.`, true);
  });
}

// ---- keys and buttons ------------------------------------------------------------------------------------------------

const press = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1),
  ArrowDown: () => step(view === "grid" ? columns() : 1), ArrowUp: () => step(view === "grid" ? -columns() : -1),
  Home: () => shown.length && go(shown[0]), End: () => shown.length && go(shown.at(-1)),
  " ": skip, Backspace: undo, ",": clear, ".": exclude, Delete: exclude,
  Enter: () => (facts.several ? save() : view === "grid" ? show("one") : null),
  Escape: () => show(view === "one" ? "grid" : "one"),
  "+": () => larger(1), "=": () => larger(1), "-": () => larger(-1),
};

document.addEventListener("keydown", (event) => {
  if (!facts || $("help").open) return;
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
  const number = keyOf.get(event.key.toLowerCase());
  const what = number !== undefined ? () => label(number) : press[event.key];
  if (!what) return;
  event.preventDefault();
  if (performance.now() >= deaf) then(what);
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
$("find").addEventListener("input", drawPanel);
$("find-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const first = $("classes").querySelector("button.class");
  if (!first || !$("find").value.trim()) return;
  const number = Number(first.dataset.number);
  while (!facts.named && facts.classes.length <= number && number < 10000) facts.classes.push(String(facts.classes.length));
  $("find").value = "";
  $("find").blur();
  then(() => label(number));
});
addEventListener("resize", fit);
addEventListener("beforeunload", (event) => { if (drafts.size || pending) event.preventDefault(); });

// The picture is zoomed by the wheel, and dragged.
const stage = $("stage");
stage.addEventListener("wheel", (event) => {
  if (facts?.kind !== "image") return;
  event.preventDefault();
  larger(event.deltaY < 0 ? 1 : -1);
}, { passive: false });
stage.addEventListener("dblclick", () => larger(zoom ? -zoom : 2));
stage.addEventListener("pointerdown", (event) => {
  if (event.pointerType !== "mouse" || zoom === 0) return;
  const from = [event.clientX + stage.scrollLeft, event.clientY + stage.scrollTop];
  const drag = (moved) => stage.scrollTo(from[0] - moved.clientX, from[1] - moved.clientY);
  stage.setPointerCapture(event.pointerId);
  stage.addEventListener("pointermove", drag);
  stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", drag), { once: true });
});

const KEYS = [
  ["1–9, then a–z", "give a class (classes called 0–9 have the key of their name)"], ["/", "find a class by its name"], ["Enter", "save the marked classes, where an item may have several; in the grid, open the item"],
  ["Space", "skip"], ["Backspace, Ctrl Z", "undo"], [",", "take the label away"], [". or Delete", "exclude, or readmit: excluded items are never scored or selected again"],
  ["← → ↑ ↓", "the next item, the one before"], ["Home, End", "the first item, the last"], ["Esc", "one item, or the grid"], ["+ −", "larger, smaller"], ["?", "these keys"],
];
for (const [key, what] of KEYS) $("keys").append(make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: what }));

start().catch((error) => {
  $("gone").textContent = token ? `The page cannot start: ${error.message}` : "The page cannot start: the address has no token.";
  $("gone").hidden = false;
});
