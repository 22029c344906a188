// The text that the model reads, and Run.
import { draft, draftSeed, isLive, run, running } from "../app";
import { toggle } from "./drawers";

export function PromptBar() {
  const live = isLive.value;
  return (
    <form class="row prompt" onSubmit={(event) => { event.preventDefault(); void run(); }}>
      <label class="prompt-text">
        <span class="unseen">Prompt</span>
        <textarea
          rows={1} value={draft.value} readOnly={!live} spellcheck={false} placeholder="A text for the model to read"
          title={live ? "" : "This file holds one pass; fathom serve runs others"}
          onInput={(event) => (draft.value = event.currentTarget.value)}
          onKeyDown={(event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); void run(); } }}
        />
      </label>
      {live ? (
        <>
          <label class="seed" title="What is drawn at random follows from this number">
            Seed <input type="number" min={0} step={1} value={draftSeed.value} onChange={(event) => (draftSeed.value = Math.max(0, Math.trunc(Number(event.currentTarget.value)) || 0))} />
          </label>
          <button type="submit" class="run" disabled={running.value}>{running.value ? "Running…" : "Run"}</button>
        </>
      ) : null}
      <button type="button" class="opens-map" onClick={() => toggle("map")}>Map</button>
      <button type="button" class="opens-explain" onClick={() => toggle("explain")}>Explain</button>
    </form>
  );
}
