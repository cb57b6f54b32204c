// The classes to choose from: their keys, those that a text finds, and their buttons.

import { make } from "./dom.js";
import { className, percent } from "./words.js";

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const MOST_BUTTONS = 200;

// Map of key -> number. The first nine classes have the keys 1-9, the next ones letters; classes that are called 0-9 have the key of their name.
export function classKeys(classes) {
  const digits = classes.length <= 10 && classes.every((name) => /^[0-9]$/.test(name));
  const keys = classes.map((name, number) => [digits ? name : number < 9 ? String(number + 1) : LETTERS[number - 9], number]);
  return new Map(keys.filter(([key]) => key));
}

// Numbers of the classes whose name has the text, the best first. Where classes have no names, any number is one.
export function foundClasses(classes, named, text) {
  const wanted = text.trim().toLowerCase(), lower = (number) => className(classes, number).toLowerCase();
  const rank = (number) => (lower(number) === wanted ? 0 : lower(number).startsWith(wanted) ? 1 : 2);
  const found = classes.map((_, number) => number).filter((number) => lower(number).includes(wanted));
  found.sort((a, b) => rank(a) - rank(b) || a - b);
  if (!named && /^[0-9]{1,9}$/.test(wanted) && !classes.includes(wanted)) found.unshift(Number(wanted));
  return found;
}

// Buttons of the found classes. item: prediction and guesses; on: numbers that are given; keys: of classKeys; give(number): what a click does.
export function classButtons(classes, found, item, on, keys, give) {
  const chance = new Map(item.guesses ?? []), keyOf = new Map([...keys].map(([key, number]) => [number, key]));
  if (item.chance != null && !chance.has(item.prediction)) chance.set(item.prediction, item.chance);
  const second = item.guesses?.find(([number]) => number !== item.prediction)?.[0];
  const buttons = found.slice(0, MOST_BUTTONS).map((number) => {
    const p = chance.get(number);
    const button = make("button", { type: "button", className: "class" },
      make("kbd", { textContent: keyOf.get(number) || " " }), make("span", { className: "name", textContent: className(classes, number) }));
    button.dataset.number = number;
    button.setAttribute("aria-pressed", on.includes(number));
    if (p !== undefined) {
      button.style.setProperty("--p", p);
      button.append(make("span", { className: "p", textContent: percent(p) }));
    } else if (number === item.prediction) button.append(make("span", { className: "p", textContent: "model" }));
    if (number === item.prediction) button.classList.add("predicted");
    else if (number === second) button.classList.add("second");
    button.addEventListener("click", () => give(number));
    return make("li", {}, button);
  });
  return buttons.length ? buttons : [make("li", { className: "nothing", textContent: "No such class." })];
}

// The class that the first button gives. Where classes have no names, those up to it are new.
export function firstFound(list, classes, named) {
  const first = list.querySelector("button.class");
  if (!first) return null;
  const number = Number(first.dataset.number);
  while (!named && classes.length <= number && number < 10000) classes.push(String(classes.length));
  return number;
}
