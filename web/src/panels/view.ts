// What a panel is to the frame. One folder a panel; index.ts lists them.
import type { ComponentType } from "preact";
import type { Selected } from "../arithmetic/address";
import type { Options, PanelData, Value } from "../data/types";
import type { ShownPanel } from "../usePanel";

/** What a view gets. `data` belongs to the side that is chosen: A, B or, signed, B − A. */
export interface ViewProps {
  data: PanelData;
  panel: ShownPanel;
  signed: boolean;
  /** The panel's own options, as the data was made with. */
  options: Options;
  /** Sets one of them; `dragged` while a slider moves. undefined: the default again. */
  set(name: string, value: Value | undefined, dragged?: boolean): void;
}

export interface PanelView {
  id: string;
  /** Which of the page's selection the panel is asked with. */
  uses: readonly Selected[];
  /** Options that only the page knows: they are in the address, and not sent to Python. */
  here?: readonly string[];
  View: ComponentType<ViewProps>;
}
