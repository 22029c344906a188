// The panels, in the order of the navigation.
import { panel as nextToken } from "./next-token";
import type { PanelView, PlaceName } from "./view";

export const PLACES: readonly PlaceName[] = ["Text", "Attention", "Stream", "Learning", "Machine"];

export const PANELS: readonly PanelView[] = [
  nextToken,
];

export function viewOf(id: string): PanelView | undefined {
  return PANELS.find((view) => view.id === id);
}
