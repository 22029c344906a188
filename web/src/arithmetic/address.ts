// What is shown, as the part of an address after "#", and back.
import type { Options, Shown, Value } from "../data/types";

export const SELECTED = ["layer", "head", "query", "key", "token"] as const;
export type Selected = (typeof SELECTED)[number];
export type Selection = Record<Selected, number | null>;
export const NOTHING: Selection = { layer: null, head: null, query: null, key: null, token: null };

export interface Place {
  model: string;
  beside: string;
  prompt: string;
  seed: number;
  panel: string;
  show: Shown;
  selection: Selection;
  /** Options of their own, by panel. */
  own: Record<string, Options>;
}

export function written(place: Place): string {
  const words = new URLSearchParams();
  for (const name of ["panel", "model", "beside", "prompt"] as const) if (place[name]) words.set(name, place[name]);
  if (place.seed) words.set("seed", String(place.seed));
  if (place.show !== "A") words.set("show", place.show);
  for (const name of SELECTED) if (place.selection[name] !== null) words.set(name, String(place.selection[name]));
  for (const panel of Object.keys(place.own).sort())
    for (const [name, value] of Object.entries(place.own[panel] ?? {}).sort()) words.set(`${panel}.${name}`, word(value));
  return words.toString();
}

export function read(text: string): Partial<Place> & Pick<Place, "selection" | "own"> {
  const words = new URLSearchParams(text.replace(/^#/, ""));
  const place: Partial<Place> & Pick<Place, "selection" | "own"> = { selection: { ...NOTHING }, own: {} };
  for (const name of ["panel", "model", "beside", "prompt"] as const) {
    const value = words.get(name);
    if (value !== null) place[name] = value;
  }
  const show = words.get("show");
  if (show === "B" || show === "B-A") place.show = show;
  if (words.has("seed")) place.seed = whole(words.get("seed")) ?? 0;
  for (const name of SELECTED) place.selection[name] = whole(words.get(name));
  for (const [name, value] of words) {
    const [panel, option] = name.split(".", 2);
    if (panel && option) (place.own[panel] ??= {})[option] = valued(value);
  }
  return place;
}

function whole(text: string | null): number | null {
  return text !== null && /^-?\d{1,9}$/.test(text) ? Number(text) : null;
}

/** As Python reads it again: src/fathom/glass/panels.py. */
export function word(value: Value): string {
  return value === null ? "null" : String(value);
}

function valued(text: string): Value {
  if (text === "true" || text === "false") return text === "true";
  if (text === "null") return null;
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}
