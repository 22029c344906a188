// What is shown: one state for the whole page, in signals, and the same in the address, so that a link shows the same.
import { batch, computed, effect, signal } from "./signals";
import { NOTHING, type Place, read, type Selected, type Selection, written } from "./arithmetic/address";
import type { Options, Series, Shown, Value } from "./data/types";

export const model = signal("");
export const beside = signal("");
export const prompt = signal("");
export const seed = signal(0);
export const panel = signal("next-token");
export const show = signal<Shown>("A");

/** What was clicked stays; what the pointer is over comes before it while it is there. null: the panel's own choice. */
export const locked = signal<Selection>({ ...NOTHING });
export const preview = signal<Partial<Selection>>({});
export const selection = computed<Selection>(() => ({ ...locked.value, ...preview.value }));
const own = signal<Record<string, Options>>({});

/** Whether the panel that is drawn is still the one before what was asked for. Set while drawing, so that its parts see it. */
export const late = { now: false };

/** The number under the pointer or cursor, for the line at the bottom. A click pins it until Esc or another click. */
export const pointed = signal<{ series: Series; indices: number[]; pinned: boolean } | null>(null);

export function select(what: Partial<Selection>): void {
  batch(() => {
    locked.value = { ...locked.value, ...what };
    preview.value = {};
  });
}

export function hover(what: Partial<Selection>): void {
  preview.value = what;
}

export function free(): void {
  batch(() => {
    locked.value = { ...NOTHING };
    preview.value = {};
    pointed.value = null;
  });
}

/** Frees what is not there in another prompt or model. `counts`: how many there are of each. */
export function fit(counts: Partial<Record<Selected, number>>): void {
  const gone = (Object.keys(counts) as Selected[]).filter((name) => (locked.value[name] ?? -1) >= (counts[name] ?? Infinity));
  if (gone.length) locked.value = { ...locked.value, ...Object.fromEntries(gone.map((name) => [name, null])) };
  [preview.value, pointed.value] = [{}, null];
}

export function point(series: Series, indices: number[]): void {
  if (!pointed.peek()?.pinned) pointed.value = { series, indices, pinned: false };
}

/** The same place in newer data of the panel, or in that of the other model; nothing where it is not there. */
export function follow(series: Record<string, Series>): void {
  const at = pointed.peek();
  const next = at ? series[at.series.name] : undefined;
  if (!at || next === at.series) return;
  const there = next && next.shape.length === at.indices.length && at.indices.every((i, d) => i < (next.shape[d] ?? 0));
  pointed.value = there ? { ...at, series: next } : null;
}

export function pin(series: Series, indices: number[]): void {
  pointed.value = { series, indices, pinned: true };
}

export function optionsOf(id: string): Options {
  return own.value[id] ?? {};
}

/** Sets an option of a panel; undefined: as the panel has it. A value that is dragged makes no step of history. */
export function setOption(id: string, name: string, value: Value | undefined, dragged = false): void {
  const { [name]: _, ...rest } = own.value[id] ?? {};
  quiet = dragged;
  own.value = { ...own.value, [id]: value === undefined ? rest : { ...rest, [name]: value } };
}

/** The panel as it was first shown: all that a file may hold of it. */
export function forgetOptions(id: string): void {
  own.value = { ...own.value, [id]: {} };
}

let quiet = true;

function place(): Place {
  return {
    model: model.value, beside: beside.value, prompt: prompt.value, seed: seed.value, panel: panel.value, show: show.value,
    selection: locked.value, own: own.value,
  };
}

/** Takes what the address says; what it does not say stays, but the selection and the options, which are then none. */
export function open(address: string): void {
  const found = read(address);
  batch(() => {
    if (found.model !== undefined) model.value = found.model;
    beside.value = found.beside ?? beside.value;
    if (found.prompt !== undefined) prompt.value = found.prompt;
    if (found.seed !== undefined) seed.value = found.seed;
    if (found.panel !== undefined) panel.value = found.panel;
    show.value = found.show ?? "A";
    locked.value = found.selection;
    own.value = found.own;
    quiet = true;
  });
}

/** Writes the address from now on; `back` is called when the reader went back or forward. */
export function keepAddress(back: () => void): void {
  let last = "";
  effect(() => {
    const now = written(place());
    if (now === last) return;
    try {
      history[quiet || last === "" ? "replaceState" : "pushState"](null, "", `#${now}`);
    } catch {
      // a sandboxed frame, such as a notebook's, has no address of its own
    }
    [last, quiet] = [now, false];
  });
  addEventListener("popstate", () => {
    last = location.hash.slice(1);
    open(last);
    last = written(place());
    back();
  });
}

export type { Selected, Selection };
