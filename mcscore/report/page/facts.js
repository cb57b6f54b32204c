// What the page knows of the selected items, and the card of each.

import { $ } from "./dom.js";

export const facts = JSON.parse($("data").textContent);
export const items = facts.items;
export const cards = items.map((item) => document.querySelector(`#sheet .card[data-id="${item.id}"]`));
export const placeOf = new Map(items.map((item, at) => [item.id, at]));
export const labelable = facts.classes !== null && items.length > 0; // whether items can be given classes
