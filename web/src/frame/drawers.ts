// On narrow screens map and explanation are drawers, of which one may be open; on wide ones both stand beside the panel.
import { signal } from "../signals";

export const drawer = signal<"" | "map" | "explain">("");

export function toggle(which: "map" | "explain"): void {
  drawer.value = drawer.value === which ? "" : which;
}
