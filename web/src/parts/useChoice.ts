// A choice of a panel that its data already holds: in the address where a server can be asked, else of this view alone,
// since a file has one view of it.
import { useState } from "preact/hooks";
import { theSource } from "../data/store";
import type { Options, Value } from "../data/types";
import { optionsOf, setOption } from "../state";

export function useChoice<T extends Value>(panel: string, options: Options, name: string, usual: T): [T, (value: T, dragged?: boolean) => void] {
  const [own, setOwn] = useState<T | null>(null);
  const live = theSource().live;
  const value = ((live ? optionsOf(panel)[name] : own) ?? options[name] ?? usual) as T;
  return [value, (chosen, dragged = false) => (live ? setOption(panel, name, chosen, dragged) : setOwn(chosen))];
}

/** A choice that only the page knows: the view names it in `here`. */
export function useHere(panel: string, name: string, usual: string): [string, (value: string) => void] {
  const given = optionsOf(panel)[name];
  return [given === undefined || given === null ? usual : String(given), (chosen) => setOption(panel, name, chosen)];
}
