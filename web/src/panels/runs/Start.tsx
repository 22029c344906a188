// Starts a small run: a preset and a text that are known by name, for a few minutes.
import { useState } from "preact/hooks";
import { lineOf, theSource } from "../../data/store";
import type { Listing } from "./facts";

export function Start({ listing, onStarted }: { listing: Listing; onStarted: (name: string) => void }) {
  const [preset, setPreset] = useState("");
  const [data, setData] = useState("");
  const [minutes, setMinutes] = useState(1);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const name = preset || listing.presets.find((one) => one.name === "rung-gqa")?.name || listing.presets[0]?.name || "";
  const about = listing.presets.find((one) => one.name === name)?.about;

  const start = async (event: Event): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    try {
      const { name: made } = await theSource().ask<{ name: string }>("/api/runs/start", { preset: name, data: data || listing.corpora[0], minutes });
      setProblem("");
      onStarted(made);
    } catch (error) {
      setProblem(lineOf(error));
    }
    setBusy(false);
  };
  return (
    <form class="row run-start" onSubmit={(event) => void start(event)}>
      <label>Train <select value={name} onChange={(event) => setPreset(event.currentTarget.value)}>{listing.presets.map((one) => <option key={one.name}>{one.name}</option>)}</select></label>
      <label>on <select value={data || listing.corpora[0]} onChange={(event) => setData(event.currentTarget.value)}>{listing.corpora.map((one) => <option key={one}>{one}</option>)}</select></label>
      <label>for <input type="number" min={0.5} max={listing.most_minutes} step={0.5} value={minutes} onInput={(event) => setMinutes(Number(event.currentTarget.value))} /> minutes</label>
      <button class="button primary" type="submit" disabled={busy}>Start</button>
      <span class="small">{about}</span>
      {problem ? <span class="run-problem" role="alert">{problem}</span> : null}
    </form>
  );
}
