// What a panel is to the frame. One folder a panel; index.ts lists them.
import type { ComponentType } from "preact";
import type { Selected } from "../arithmetic/address";
import type { Options, PanelData, Value } from "../data/types";
import type { ShownPanel } from "../usePanel";

export type PlaceName = "Text" | "Attention" | "Stream" | "Learning" | "Machine";

/** An element of a formula: its tag, its attributes, and what is in it. */
export type MathNode = [tag: string, attributes: Record<string, string> | 0, ...children: (MathNode | string)[]];

/** As explain.ts has it; the build turns `tex` into `formula`. */
export interface Explain {
  sentences: [string, string, string];
  /** Colours: \textcolor{blue} is a query, red a key, green a value, purple an output. */
  tex: string;
  formula?: MathNode;
}

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
  place: PlaceName;
  title: string;
  /** A question to guess before the panel answers it. */
  question: string;
  /** Which of the page's selection the panel is asked with. */
  uses: readonly Selected[];
  /** Options that only the page knows: they are in the address, and not sent to Python. */
  here?: readonly string[];
  View: ComponentType<ViewProps>;
  explain: Explain;
  guess?: Guess;
}

/** Answers to choose from before the panel is looked at, and which one the data gives, with a sentence that says so. */
export interface Guess {
  choices: readonly string[];
  answer(data: PanelData): { choice: number; says: string };
}
