// The hook through which views get their data.
import { useMemo, useRef } from "preact/hooks";
import { difference } from "./data/panel";
import { entryOf, sides, tries } from "./data/store";
import type { Options, PanelData } from "./data/types";
import { optionsOf, locked, show } from "./state";
import { viewOf } from "./panels";

export interface ShownPanel {
  A?: PanelData;
  B?: PanelData;
  /** B − A, where both are there. */
  diff?: PanelData;
  /** The one of the three that is chosen; while a newer one is on its way, the one before. */
  data?: PanelData;
  /** Whether `data` is a difference, to be drawn in signed colours. */
  signed: boolean;
  loading: boolean;
  error?: string;
}

/** The panel `id` for the selection, as far as the panel uses it, its own options in the address, and `more`. */
export function usePanel(id: string, more: Options = {}): ShownPanel {
  void tries.value; // drawn again when what failed may be asked again
  const options: Options = { ...optionsOf(id), ...more };
  for (const name of viewOf(id)?.here ?? []) delete options[name];
  for (const name of viewOf(id)?.uses ?? []) if (locked.value[name] !== null) options[name] ??= locked.value[name];
  const both = sides.value?.B !== undefined;
  const a = sides.value ? entryOf("A", id, options).value : {};
  const b = both ? entryOf("B", id, options).value : {};
  const diff = useMemo(() => (a.data && b.data ? difference(a.data, b.data) : undefined), [a.data, b.data]);

  const chosen = both ? show.value : "A";
  const data = { A: a.data, B: b.data, "B-A": diff }[chosen];
  const error = (chosen !== "B" ? a.error : undefined) ?? (chosen !== "A" ? b.error : undefined);
  const before = useRef<{ id: string; data: PanelData; chosen: string } | null>(null);
  if (data) before.current = { id, data, chosen };
  const old = before.current?.id === id && !error ? before.current : null;
  return {
    ...(a.data ? { A: a.data } : {}), ...(b.data ? { B: b.data } : {}), ...(diff ? { diff } : {}),
    ...(data ?? old?.data ? { data: data ?? (old?.data as PanelData) } : {}),
    ...(error ? { error } : {}),
    signed: (data ? chosen : old?.chosen) === "B-A",
    loading: !data && !error,
  };
}
