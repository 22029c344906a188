// The views of the panels.
import { panel as ablation } from "./ablation";
import { panel as attribution } from "./attribution";
import { panel as cost } from "./cost";
import { panel as generation } from "./generation";
import { panel as groups } from "./groups";
import { panel as heads } from "./heads";
import { panel as lens } from "./lens";
import { panel as lora } from "./lora";
import { panel as microscope } from "./microscope";
import { panel as nextToken } from "./next-token";
import { panel as packing } from "./packing";
import { panel as positions } from "./positions";
import { panel as runs } from "./runs";
import type { PanelView } from "./view";

export const PANELS: readonly PanelView[] = [
  nextToken,
  microscope,
  heads,
  lens,
  attribution,
  ablation,
  positions,
  generation,
  groups,
  runs,
  lora,
  packing,
  cost,
];

export function viewOf(id: string): PanelView | undefined {
  return PANELS.find((view) => view.id === id);
}
