// Panels that were asked for, by what was asked, and the pass they belong to.
import { signal, type Signal } from "../signals";
import { readPanel } from "./panel";
import { Forgotten, type Source, Superseded } from "./source";
import type { Options, PanelData, SideName, Sides } from "./types";

export interface Entry {
  data?: PanelData;
  error?: string;
}

const KEPT = 96; // panels; each is at most a few megabytes

export const sides = signal<Sides | null>(null);
export const pass = signal("");
export const tries = signal(0);
const entries = new Map<string, Signal<Entry>>();
let source: Source | null = null;
let onForgotten: () => void = () => {};

export function setSource(made: Source, forgotten: () => void): void {
  [source, onForgotten] = [made, forgotten];
}

export function theSource(): Source {
  if (!source) throw new Error("the page has no source of panels yet");
  return source;
}

export function setPass(id: string, shown: Sides): void {
  entries.clear();
  pass.value = id;
  sides.value = shown;
}

/** The panel, asked for when it is first wanted. */
export function entryOf(side: SideName, id: string, options: Options): Signal<Entry> {
  const key = JSON.stringify([pass.value, side, id, Object.entries(options).sort()]);
  const known = entries.get(key);
  if (known) {
    entries.delete(key); // the least recently used goes first
    entries.set(key, known);
    return known;
  }
  const made = signal<Entry>({});
  entries.set(key, made);
  if (entries.size > KEPT) entries.delete(entries.keys().next().value ?? "");
  void fill(made, key, side, id, options);
  return made;
}

async function fill(entry: Signal<Entry>, key: string, side: SideName, id: string, options: Options): Promise<void> {
  try {
    entry.value = { data: readPanel(await theSource().panel(pass.value, side, id, options), side) };
  } catch (error) {
    const unanswered = error instanceof Forgotten || error instanceof Superseded;
    if (!unanswered) entry.value = { error: lineOf(error) }; // kept: what failed is not asked again by itself
    else if (entries.get(key) === entry) entries.delete(key);
    if (error instanceof Forgotten) onForgotten();
  }
}

/** What failed may be asked for again. */
export function retry(): void {
  for (const [key, entry] of entries) if (entry.peek().error) entries.delete(key);
  tries.value += 1;
}

export function lineOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";
}
