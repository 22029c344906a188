// Runs that train or have trained: their curves over each other, what two of them differ in, what they write.
import { Note } from "../../parts/Note";
import { useState } from "preact/hooks";
import { counted, grouped, readable } from "../../arithmetic/number";
import { lineOf, theSource } from "../../data/store";
import { LineChart, type Line } from "../../parts/LineChart";
import { Segmented } from "../../parts/Segmented";
import { Table } from "../../parts/Table";
import { useHere } from "../../parts/useChoice";
import type { Run } from "./facts";
import { address, type Lines, useLines, type Watched } from "./live";
import { curveOf, type Difference, differences, type Known, type Metric, METRICS, otherTokens, rule, seriesOf, thinned } from "./rows";
import { Start } from "./Start";

const POINTS = 600; // of one curve; more than a screen has across
const FEW = 8; // settings that are in sight
const MOST = 6; // curves have as many colours

export function Runs({ watched }: { watched: Watched }) {
  const { listing, error, again } = watched;
  const [given, setGiven] = useHere("runs", "runs", "");
  const all = listing?.runs ?? [];
  const chosen = given ? given.split("|").slice(0, MOST) : first(all);
  const lines = useLines(chosen, listing);
  const [said, setSaid] = useState("");
  if (!listing) return <p class="small">{error ?? "Looking for runs…"}</p>;

  const flip = (name: string): void => setGiven((chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]).slice(-MOST).join("|"));
  const tell = async (name: string, what: "stop" | "resume"): Promise<void> => {
    try {
      await theSource().ask(`${address(name)}/${what}`, {});
      setSaid("");
    } catch (problem) {
      setSaid(lineOf(problem));
    }
    again();
  };
  return (
    <section class="runs">
      {error ? <p class="note" role="status">{error}</p> : null}
      <Start listing={listing} onStarted={(name) => { setGiven([...chosen, name].slice(-MOST).join("|")); again(); }} />
      {said ? <p class="note" role="alert">{said}</p> : null}
      <List runs={all} chosen={chosen} flip={flip} tell={tell} />
      {chosen.filter((name) => !all.some((run) => run.name === name)).map((name) => <p key={name} class="note" role="status"><b>{name}</b> is not in the folder any more.</p>)}
      {chosen.filter((name) => lines[name] && "gone" in (lines[name] as Lines)).map((name) => <p key={name} class="note" role="status"><b>{name}</b>: {(lines[name] as { gone: string }).gone}</p>)}
      <Curves names={chosen} lines={lines} other={otherTokens(all.flatMap((run) => (chosen.includes(run.name) && run.settings ? [run.settings] : [])))} />
      <Compared runs={chosen.flatMap((name) => all.filter((run) => run.name === name && run.settings))} />
      <Samples names={chosen} lines={lines} />
    </section>
  );
}

/** What is shown before anything is chosen: what trains, else the two that were trained last. */
function first(runs: readonly Run[]): string[] {
  const usable = runs.filter((run) => !run.problem);
  const busy = usable.filter((run) => run.state === "training" || run.state === "starting");
  const recent = [...usable].sort((a, b) => (a.quiet ?? Infinity) - (b.quiet ?? Infinity)).slice(0, 2);
  return (busy.length ? busy : recent).slice(0, MOST).map((run) => run.name);
}

function List({ runs, chosen, flip, tell }: { runs: readonly Run[]; chosen: readonly string[]; flip: (name: string) => void; tell: (name: string, what: "stop" | "resume") => void }) {
  if (!runs.length) return <p class="note">No run yet: start one of a minute above.</p>;
  return (
    <ul class="run-list">
      {runs.map((run) => {
        const at = chosen.indexOf(run.name);
        return (
          <li key={run.name} class="row" data-problem={run.problem !== null}>
            <label class="run-name" data-colour={at < 0 ? undefined : at % MOST}>
              <input type="checkbox" checked={at >= 0} disabled={run.problem !== null} onChange={() => flip(run.name)} />
              <b>{run.name}</b>
            </label>
            {run.problem !== null ? <span class="run-problem">{run.problem}</span> : <About {...run} />}
            {run.ours && run.state === "training" ? <button class="button" onClick={() => tell(run.name, "stop")}>Stop</button> : null}
            {run.problem === null && run.state === "stopped" ? <button class="button" onClick={() => tell(run.name, "resume")}>Resume</button> : null}
          </li>
        );
      })}
    </ul>
  );
}

function About({ state, step = 0, steps, best_loss: best, best_step: at, model, parameters, data, quiet }: Run) {
  const silent = state === "training" && (quiet ?? 0) > 10 ? `, no new line for ${Math.round(quiet ?? 0)} s` : "";
  return (
    <>
      <span class="run-state" data-state={state}>{state}{silent}</span>
      {model ? <span class="small">step {grouped(step)}{steps && state !== "finished" ? ` of at most ${grouped(steps)}` : ""}{typeof best === "number" ? `, best ${readable(best)} at ${grouped(at)}` : ""} · {model}, {counted(parameters ?? 0)} parameters · {data}</span> : null}
    </>
  );
}

function Curves({ names, lines, other }: { names: readonly string[]; lines: Record<string, Lines>; other: boolean }) {
  const [metric, setMetric] = useHere("runs", "metric", "val_loss");
  const [over, setOver] = useState<"step" | "tokens">("step");
  const drawn: Line[] = names.flatMap((name) => {
    const known = lines[name];
    if (!known || !("rows" in known)) return [];
    const curve = thinned(curveOf(known.rows, metric as Metric), POINTS);
    if (!curve.y.length) return [];
    return [{ name, series: seriesOf(name, (known as Known).path, metric as Metric, curve), indices: (i: number) => [curve.line[i] ?? 0], x: over === "step" ? curve.step : curve.tokens }];
  });
  const label = METRICS.find(({ value }) => value === metric)?.label ?? metric;
  const unit = metric === "loss" || metric === "val_loss" ? ", nats per token" : "";
  return (
    <div class="run-curves">
      <div class="row">
        <Segmented label="what" choices={METRICS} value={metric as Metric} onChange={(one) => setMetric(one)} />
        <Segmented label="over" named choices={[{ value: "step" as const, label: "steps" }, { value: "tokens" as const, label: "tokens" }]} value={over} onChange={setOver} />
      </div>
      {other && unit ? <Note of="other tokens" /> : null}
      {drawn.length ? <LineChart lines={drawn} label={`${label} of ${names.length} runs`} xLabel={over} yLabel={`${label}${unit}`} height={280} /> : (
        <p class="note">{names.length ? `There is no ${label} yet${metric === "val_loss" ? ": the training loss is there from the first step" : ""}.` : "Choose a run to see its curve."}</p>
      )}
    </div>
  );
}

function Compared({ runs }: { runs: readonly Run[] }) {
  const [a, b] = runs;
  if (!a?.settings || !b?.settings) return null;
  const { what, rest } = differences(a.settings, b.settings);
  return (
    <div class="run-compared">
      <h3>{a.name} beside {b.name}</h3>
      <p data-one={what.length <= 1}>{rule(what)}</p>
      <Settings a={a.name} b={b.name} list={[...what, ...rest].slice(0, FEW)} />
      {what.length + rest.length > FEW ? <details><summary>{what.length + rest.length - FEW} more</summary><Settings a={a.name} b={b.name} list={[...what, ...rest].slice(FEW)} /></details> : null}
    </div>
  );
}

function Settings({ a, b, list }: { a: string; b: string; list: readonly Difference[] }) {
  if (!list.length) return null;
  return <Table caption="Settings that differ" columns={[{ name: "field" }, { name: a }, { name: b }]} rows={list.map((one) => [<code key="f">{one.field}</code>, one.a, one.b])} />;
}

function Samples({ names, lines }: { names: readonly string[]; lines: Record<string, Lines> }) {
  const found = names.flatMap((name) => {
    const known = lines[name];
    const written = known && "rows" in known ? known.rows.filter((row) => row.sample !== undefined) : [];
    return written.length ? [{ name, written }] : [];
  });
  if (!found.length) return null;
  return (
    <div class="side-by-side">
      {found.map(({ name, written }) => <Written key={name} name={name} colour={names.indexOf(name) % MOST} written={written.map(({ step, sample }) => ({ step, sample: sample ?? "" }))} />)}
    </div>
  );
}

export function Written({ name, colour, written }: { name: string; colour: number; written: readonly { step: number; sample: string }[] }) {
  const [at, setAt] = useState<number | null>(null);
  const place = Math.min(at ?? written.length - 1, written.length - 1);
  return (
    <figure class="run-sample">
      <figcaption data-colour={colour}><b>{name}</b> writes, after step {grouped(written[place]?.step)}</figcaption>
      <pre tabIndex={0}>{written[place]?.sample}</pre>
      {written.length > 1 ? <Segmented label="step" choices={written.map((one, i) => ({ value: i, label: String(one.step) })).slice(-6)} value={place} onChange={(i) => setAt(i === written.length - 1 ? null : i)} /> : null}
    </figure>
  );
}
