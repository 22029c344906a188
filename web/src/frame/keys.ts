// Keys that work everywhere but where a key means something of its own: Esc frees the selection and
// the number, arrows move the selection.
import { sides } from "../data/store";
import { free, locked, select } from "../state";
import { drawer } from "./drawers";

const OWN = "input, textarea, select, summary, [contenteditable], [data-arrows], [role=tablist], [role=radiogroup]";

export function onKey(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (drawer.value) drawer.value = "";
    else free();
    return;
  }
  if (event.target instanceof Element && event.target.closest(OWN)) return;
  const way = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
  const side = sides.value?.A;
  if (!way || !side) return;
  event.preventDefault();
  const { query, layer } = locked.value;
  const last = side.tokens.length - 1;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") select({ query: within((query ?? last + (way < 0 ? 1 : 0)) + way, last + 1) });
  else select({ layer: within((layer ?? (way > 0 ? -1 : side.card.n_layer)) + way, side.card.n_layer) });
}

function within(at: number, count: number): number {
  return Math.min(count - 1, Math.max(0, at));
}
