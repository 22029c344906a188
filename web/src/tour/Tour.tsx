// A guided tour of five minutes, for someone who has never seen a transformer.
import { batch, signal } from "../signals";
import { useEffect, useRef } from "preact/hooks";
import { isLive, tour } from "../app";
import { pass, theSource } from "../data/store";
import type { Stop } from "../data/types";
import { free, late, panel, select } from "../state";
import "./tour.css";

/** The stop that is shown, from 0; null: no tour is on. */
export const stop = signal<number | null>(null);

export function visit(at: number): void {
  const there = tour.value[at];
  if (!there) return;
  batch(() => {
    stop.value = at;
    panel.value = there.panel;
    free(); // what was clicked at the stop before is not what this one speaks of
    if (there.head) select({ layer: there.head[0], head: there.head[1] });
    if (there.query) select({ query: there.query });
  });
}

/** On a narrow screen the card covers the lower third: brings what it speaks of into sight above it, once it is drawn. */
function bringUp(part: string): void {
  if (!matchMedia("(max-width: 760px)").matches) return;
  const found = late.now ? null : document.querySelector(part || ".panel-body");
  if (found) found.scrollIntoView();
  else setTimeout(bringUp, 200, part);
}

export function TourButton() {
  if (!tour.value.length) return null;
  return (
    <button class="tour-button" aria-pressed={stop.value !== null} onClick={() => (stop.value === null ? visit(0) : (stop.value = null))}>
      Tour
    </button>
  );
}

export function Tour() {
  const at = stop.value;
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    if (at === null) return;
    heading.current?.focus({ preventScroll: true });
    bringUp(tour.value[at]?.part ?? "");
  }, [at]);
  const on = at !== null;
  useEffect(() => {
    // what it says and shows is about the model that was run
    if (on && isLive.value) theSource().ask<Stop[]>(`/api/tour?pass=${pass.value}`).then((stops) => (tour.value = stops), () => {});
  }, [on, pass.value]);
  const there = at === null ? undefined : tour.value[at];
  if (at === null || !there) return null;
  return (
    <section class="tour" aria-label="Tour">
      <p class="tour-place">{at + 1} of {tour.value.length}</p>
      <h2 ref={heading} tabIndex={-1}>{there.title}</h2>
      <p>{there.text}</p>
      <p><b>Try:</b> {there.attempt}</p>
      <div class="row">
        <button disabled={at === 0} onClick={() => visit(at - 1)}>Back</button>
        {at + 1 < tour.value.length ? <button class="main" onClick={() => visit(at + 1)}>Next</button> : null}
        <button onClick={() => (stop.value = null)}>{at + 1 < tour.value.length ? "Leave the tour" : "Done"}</button>
      </div>
    </section>
  );
}
