// Keys that work everywhere but where a key means something of its own: Esc frees the selection and
// the number, arrows move the selection.
import { arrow, within } from "../arithmetic/arrows";
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
  const [down, right] = arrow(event.key);
  const side = sides.value?.A;
  if ((!down && !right) || !side) return;
  event.preventDefault();
  const { query, layer } = locked.value;
  const last = side.tokens.length - 1;
  if (right) select({ query: within((query ?? last + (right < 0 ? 1 : 0)) + right, last + 1) });
  else select({ layer: within((layer ?? (down > 0 ? -1 : side.card.n_layer)) + down, side.card.n_layer) });
}
