// One item, as large as there is room, or zoomed: by keys, by the wheel, and dragged.

import { draw } from "./content.js";
import { $, isSmall } from "./dom.js";
import { page } from "./state.js";

const SMALL_SIDE = 480; // on the page, of a picture of few pixels, before it is zoomed: larger squares are harder to see as a whole
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
let zoom = 0;

export function startStage() {
  const stage = $("stage");
  stage.addEventListener("wheel", (event) => {
    if (page.facts?.kind !== "image") return;
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 1 : -1);
  }, { passive: false });
  stage.addEventListener("dblclick", () => zoomBy(zoom ? -zoom : 2));
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || zoom === 0) return;
    const from = [event.clientX + stage.scrollLeft, event.clientY + stage.scrollTop];
    const drag = (moved) => stage.scrollTo(from[0] - moved.clientX, from[1] - moved.clientY);
    stage.setPointerCapture(event.pointerId);
    stage.addEventListener("pointermove", drag);
    stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", drag), { once: true });
  });
  addEventListener("resize", fit);
}

export function drawStage({ whole = false } = {}) {
  const stage = $("stage"), item = page.items[page.current];
  if (whole) zoom = 0;
  if (!item || page.view !== "one") return;
  if (stage.dataset.id !== String(item.id) || !stage.firstChild) {
    stage.dataset.id = item.id;
    const drawn = draw(item, page.facts.kind, true);
    stage.replaceChildren(drawn);
    if (drawn.tagName === "IMG") {
      stage.classList.add("loading");
      drawn.addEventListener("load", () => { stage.classList.remove("loading"); fit(); });
    }
  }
  fit();
}

export function fit() {
  const stage = $("stage"), image = stage.querySelector("img"), factor = ZOOMS[zoom];
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

export function zoomBy(by) {
  const stage = $("stage"), before = ZOOMS[zoom];
  const middle = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
  zoom = Math.min(Math.max(zoom + by, 0), ZOOMS.length - 1);
  fit();
  const grown = ZOOMS[zoom] / before;
  stage.scrollTo(middle[0] * grown - stage.clientWidth / 2, middle[1] * grown - stage.clientHeight / 2);
}
