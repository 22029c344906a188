// What an element that draws a number carries: where the number comes from, and that pointing at it says so.
import type { Series } from "../data/types";
import { pin, point } from "../state";

export function told(series: Series, indices: number[], click?: () => void) {
  const pointed = (): void => point(series, indices);
  return {
    "data-kind": series.kind, "data-source": series.source, onPointerEnter: pointed, onFocus: pointed,
    onClick() {
      pin(series, indices);
      click?.();
    },
  };
}
