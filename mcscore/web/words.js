// Classes, labels, scores and probabilities as a person reads them.

export const title = (score) => (score === "bald" ? "BALD" : score.replaceAll("_", " "));
export const figure = (value) => (value === null || value === undefined ? "none" : Math.abs(value) >= 0.001 || value === 0 ? value.toPrecision(3) : value.toExponential(1));
export const percent = (p) => `${(100 * p).toFixed(p >= 0.1 ? 0 : 1)} %`;

export const className = (classes, number) => (classes[number]?.trim() ? classes[number] : String(number));

// The text of a label: null, a number of a class, or a list of them.
export function labelText(classes, label) {
  if (label === null) return "no label";
  if (!Array.isArray(label)) return className(classes, label);
  return label.length ? label.map((number) => className(classes, number)).join(", ") : "none of the classes";
}
