// A page that holds its own data: an exported file, or a cell of a notebook.
import { word } from "../arithmetic/address";
import { readTensors } from "./safetensors";
import type { Source } from "./source";
import type { DocumentData, Options, SideName, Sides } from "./types";

const ELSEWHERE = "open the live page with: fathom serve MODEL";

export function embedded(page: DocumentData, element: (id: string) => string | null): Source {
  const panels = page.panels ?? {};
  const sides = page.sides as Sides;
  const refuse = (what: string) => async (): Promise<never> => {
    throw new Error(`${what} needs the model, which this file does not hold; ${ELSEWHERE}`);
  };
  const firsts = new Map<string, Promise<Options>>();

  async function bytes(key: string): Promise<ArrayBuffer> {
    const text = element(panels[key] ?? "");
    if (text === null) throw new Error(`this file lacks this view; ${ELSEWHERE}`);
    return unpacked(text);
  }

  /** The options of the first view: those that are not in a key. */
  function first(side: SideName, id: string): Promise<Options> {
    const key = `${side}/${id}?`;
    const known = firsts.get(key) ?? bytes(key).then((data) => JSON.parse(readTensors(data).metadata.panel ?? "{}").options ?? {});
    firsts.set(key, known);
    return known;
  }

  return {
    live: false,
    models: async () => [],
    run: refuse("another prompt"),
    async panel(_pass, side, id, options) {
      const defaults = await first(side, id);
      const tokens = sides[side]?.tokens.length ?? 0;
      const key = `${side}/${id}?${changed(options, defaults, tokens)}`;
      return bytes(key);
    },
    ask: refuse("this"),
    stream: refuse("this"),
  };
}

/** "head=1&layer=2": the options that differ from the first view's. A position may count from the end. */
export function changed(options: Options, defaults: Options, tokens: number): string {
  const differs = ([name, value]: [string, Options[string]]): boolean => {
    const usual = defaults[name];
    const same = value === usual || (typeof usual === "number" && usual < 0 && value === usual + tokens);
    return value !== null && !same;
  };
  return Object.entries(options).filter(differs).sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}=${word(value)}`).join("&");
}

/** base64 of a gzipped file. */
async function unpacked(text: string): Promise<ArrayBuffer> {
  const packed = Uint8Array.from(atob(text.trim()), (one) => one.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}
