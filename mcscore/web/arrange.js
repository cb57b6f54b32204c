// Which items are shown, and in which order. An item has id, prediction and scores; its place is its rank in the selection.

// Functions that compare two places.
export function orders(items, score) {
  const value = (at) => items[at].scores[score] ?? -Infinity;
  return {
    rank: (a, b) => a - b,
    high: (a, b) => value(b) - value(a) || a - b,
    low: (a, b) => value(a) - value(b) || a - b,
    predicted: (a, b) => (items[a].prediction ?? -1) - (items[b].prediction ?? -1) || a - b,
    id: (a, b) => items[a].id - items[b].id,
  };
}

// Whether an item is of the predicted class and within the range of the score; an empty text asks for nothing.
export function within(item, { predicted, score, low, high }) {
  const value = item.scores[score] ?? null;
  if (predicted !== "" && item.prediction !== Number(predicted)) return false;
  if (low !== "" && !(value !== null && value >= Number(low))) return false;
  return high === "" || (value !== null && value <= Number(high));
}

export const hasLabel = (label, number) => (Array.isArray(label) ? label.includes(number) : label === number);

// Whether a label says other than the prediction.
export const differs = (label, prediction) => label !== null && prediction !== null && !hasLabel(label, prediction);
