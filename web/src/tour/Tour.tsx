// A guided tour of five minutes, for someone who has never seen a transformer.
import { batch, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { viewOf } from "../panels";
import { panel, select } from "../state";
import { STOPS } from "./stops";
import "./tour.css";

/** The stop that is shown, from 0; null: no tour is on. */
export const stop = signal<number | null>(null);

export function visit(at: number): void {
  const there = STOPS[at];
  if (!there) return;
  batch(() => {
    stop.value = at;
    if (viewOf(there.panel)) panel.value = there.panel;
    if (there.selects) select(there.selects);
  });
}

export function TourButton() {
  return (
    <button class="tour-button" aria-pressed={stop.value !== null} onClick={() => (stop.value === null ? visit(0) : (stop.value = null))}>
      Tour
    </button>
  );
}

export function Tour() {
  const at = stop.value;
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus(), [at]);
  const there = at === null ? undefined : STOPS[at];
  if (at === null || !there) return null;
  return (
    <section class="tour" aria-label="Tour">
      <p class="tour-place">{at + 1} of {STOPS.length}</p>
      <h2 ref={heading} tabIndex={-1}>{there.title}</h2>
      <p>{there.text}</p>
      <p class="tour-attempt"><b>Try:</b> {there.attempt}</p>
      <div class="tour-steps">
        <button disabled={at === 0} onClick={() => visit(at - 1)}>Back</button>
        {at + 1 < STOPS.length ? <button class="main" onClick={() => visit(at + 1)}>Next</button> : null}
        <button onClick={() => (stop.value = null)}>{at + 1 < STOPS.length ? "Leave the tour" : "Done"}</button>
      </div>
    </section>
  );
}
