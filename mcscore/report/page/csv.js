// labels.csv as `mcscore pool label` takes it: id, key, and label; or, where an item may have several, a column of 0 and 1 for each class.

import { make } from "./dom.js";
import { facts } from "./facts.js";
import { className } from "./words.js";

// A spreadsheet would run such a cell as a formula: it gets an apostrophe, which reading takes away (mcscore/cells.py).
const FORMULA = /^'*[=+\-@＝＋－＠\t\r\n]/;
const cell = (value) => {
  const text = FORMULA.test(String(value)) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

export function csvOf(rows) {
  // A key with bytes that are no text cannot be written; the id names the item by itself.
  const keyed = rows.every(([item]) => item.key !== null && (item.key.isWellFormed?.() ?? true));
  const own = ([item, label]) => [item.id, ...(keyed ? [item.key] : []), ...(facts.several ? facts.classes.map((_, number) => Number(label.includes(number))) : [className(facts.classes, label)])];
  const head = ["id", ...(keyed ? ["key"] : []), ...(facts.several ? facts.classes : ["label"])];
  return [head, ...rows.map(own)].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

export function download(rows) {
  const link = make("a", { href: URL.createObjectURL(new Blob([csvOf(rows)], { type: "text/csv" })), download: "labels.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
