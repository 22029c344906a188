// Runs of the folder that is served, asked for again and again while the panel is open.
import { useEffect, useRef, useState } from "preact/hooks";
import { lineOf, theSource } from "../../data/store";
import { noted } from "../../parts/Note";
import type { Ladder, Listing } from "./facts";
import { type Answer, type Known, lastStep, merged } from "./rows";

const LIST = 2000; // ms from one list to the next
const ROWS = 1000; // and from some lines to the next
const BUSY = new Set(["training", "starting", "stopping"]);

export interface Watched {
  listing?: Listing;
  error?: string;
  again(): void;
}

export function useListing(): Watched {
  const [found, setFound] = useState<{ listing?: Listing; error?: string }>({});
  const [count, setCount] = useState(0);
  useEffect(() => {
    if (!theSource().live) return;
    let [over, timer] = [false, 0];
    const round = async (): Promise<void> => {
      try {
        const listing = await theSource().ask<Listing | { runs: null }>("/api/runs");
        if (over) return;
        if (!listing.runs) return setFound({ error: noted("no folder") }); // nothing to ask for again
        setFound({ listing });
      } catch (error) {
        if (!over) setFound((before) => ({ ...before, error: lineOf(error) }));
      }
      if (!over) timer = window.setTimeout(() => void round(), LIST);
    };
    void round();
    return () => {
      over = true;
      window.clearTimeout(timer);
    };
  }, [count]);
  return { ...found, again: () => setCount((n) => n + 1) };
}

export type Lines = Known | { gone: string };

/** The lines of these runs; a run that trains is asked again, one that vanished says so. */
export function useLines(names: readonly string[], listing: Listing | undefined): Record<string, Lines> {
  const known = useRef<Record<string, Lines>>({});
  const states = useRef<Record<string, string>>({});
  states.current = Object.fromEntries((listing?.runs ?? []).map((run) => [run.name, run.state ?? ""]));
  const [shown, setShown] = useState<Record<string, Lines>>({});
  useEffect(() => {
    let [over, timer] = [false, 0];
    const round = async (): Promise<void> => {
      for (const name of names) {
        const before = known.current[name];
        const whole = before && "rows" in before && !BUSY.has(before.state) && !BUSY.has(states.current[name] ?? "");
        if (!whole && states.current[name] !== "starting") known.current[name] = await lines(name, before);
        if (over) return;
      }
      setShown({ ...known.current });
      timer = window.setTimeout(() => void round(), ROWS);
    };
    void round();
    return () => {
      over = true;
      window.clearTimeout(timer);
    };
  }, [names.join("|")]);
  return shown;
}

async function lines(name: string, before: Lines | undefined): Promise<Lines> {
  const known = before && "rows" in before ? before : undefined;
  const from = known ? lastStep(known.rows) : 0;
  const ask = (after: number): Promise<Answer> => theSource().ask<Answer>(`${address(name)}?after=${after}`);
  try {
    return merged(known, await ask(from), from) ?? (merged(undefined, await ask(0), 0) as Known);
  } catch (error) {
    return { gone: lineOf(error) };
  }
}

export function address(name: string): string {
  return `/api/runs/${name.split("/").map(encodeURIComponent).join("/")}`;
}

/** The cards of a ladder of the folder; undefined: none was chosen, or it is on its way. */
export function useLadder(name: string): { ladder?: Ladder; error?: string } {
  const [found, setFound] = useState<{ name: string; ladder?: Ladder; error?: string }>({ name: "" });
  useEffect(() => {
    let over = false;
    if (name) theSource().ask<Ladder>(`/api/ladders/${name.split("/").map(encodeURIComponent).join("/")}`).then(
      (ladder) => { if (!over) setFound({ name, ladder }); }, (error) => { if (!over) setFound({ name, error: lineOf(error) }); });
    return () => { over = true; };
  }, [name]);
  return found.name === name ? found : {};
}
