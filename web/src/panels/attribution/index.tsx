// P5: who wrote this logit. What every part adds to it, for one token or for the difference of two.
import { useState } from "preact/hooks";
import { isLive } from "../../app";
import { between, byKind, columnOf, largest, type PartOf, picked, sums, upTo } from "../../arithmetic/attribution";
import { readable, signed as withSign } from "../../arithmetic/number";
import type { Slice } from "../../arithmetic/slice";
import { visible } from "../../arithmetic/text";
import { sides } from "../../data/store";
import { valueAt } from "../../data/python";
import type { PanelData, Series, Token, Value } from "../../data/types";
import { Bars, type Bar } from "../../parts/Bars";
import { Cell } from "../../parts/Cell";
import { Heatmap } from "../../parts/Heatmap";
import { LineChart } from "../../parts/LineChart";
import { Switch } from "../../parts/Switch";
import { locked, optionsOf, select, selection } from "../../state";
import type { PanelView, ViewProps } from "../view";
import "./attribution.css";

interface Facts {
  parts: PartOf[];
  texts: Record<string, string>;
  faults: string[];
}

const KINDS: Record<string, string> = { embed: "embedding", position: "position", head: "all heads", mlp: "all MLPs", bias: "all biases" };
const MISTAKES: Record<string, string> = { biases: "forget the biases", norms: "norm each part alone" };
const SHOWN = 12; // parts with a bar of their own

function View({ data, panel, signed, set }: ViewProps) {
  const base = signed ? panel.B : data;
  const { a, b } = optionsOf("attribution");
  const { parts, texts, faults } = (base ?? data).facts as unknown as Facts;
  const ids = base?.series.tokens;
  if (!base || !ids) return <p class="absent">A and B have different parts: look at A or at B.</p>;
  const columns = ids.shape[0] ?? 0;
  const query = Math.min(columns - 1, locked.value.query ?? columns - 1);
  const offers = [...new Set(Array.from({ length: ids.shape[1] ?? 0 }, (_, c) => valueAt(ids, [query, c])))];
  const asked = (name: string, own: Value | undefined): number | null => [own, base.options[name]].find((one) => typeof one === "number") as number | undefined ?? null;
  const wanted = asked("token", a);
  const token = wanted !== null && offers.includes(wanted) ? wanted : (offers[0] ?? 0);
  const minus = asked("other", b);
  const other = minus !== null && offers.includes(minus) && minus !== token ? minus : null;
  const both = (name: string, of: PanelData | undefined): Series | null => {
    const [series, tokens] = [of?.series[name], of?.series.tokens];
    if (!series || !tokens) return null;
    const [first, second] = [columnOf(tokens, query, token), other === null ? null : columnOf(tokens, query, other)];
    return first < 0 || second === -1 ? null : picked(series, query, first, second);
  };
  const chosen = (name: string): Series | null => {
    if (!signed) return both(name, base);
    const [one, two] = [both(name, panel.A), both(name, panel.B)];
    return one && two && one.shape[0] === two.shape[0] ? between(one, two) : null;
  };
  const [shown, logit] = [chosen("contribution"), chosen("logit")];
  const says = (id: number): string => visible(texts[String(id)] ?? String(id));
  const tokens = sides.value?.[ids.side === "B" ? "B" : "A"]?.tokens ?? [];
  return (
    <div class="attribution">
      <Choose {...{ offers, token, other, says, tokens, query }} set={set} />
      {faults.length ? (
        <div class="controls">
          <span class="small">Make a mistake:</span>
          {faults.map((fault) => <Switch key={fault} wrong label={MISTAKES[fault] ?? fault} on={data.options.fault === fault} onChange={(on) => set("fault", on ? fault : undefined)} />)}
        </div>
      ) : null}
      {shown && logit ? <Parts {...{ shown, logit, parts, token, other, says, signed }} /> : <p class="absent">A and B have different vocabularies: look at A or at B.</p>}
    </div>
  );
}

function Choose({ offers, token, other, says, tokens, query, set }: { offers: number[]; token: number; other: number | null; says: (id: number) => string; tokens: readonly Token[]; query: number; set: ViewProps["set"] }) {
  const [typed, setTyped] = useState("");
  return (
    <div class="controls">
      <span class="small">After <code>{visible(tokens[query]?.text ?? String(query))}</code>, the logit of</span>
      <select aria-label="Token" value={String(token)} onChange={(event) => set("a", Number(event.currentTarget.value))}>
        {offers.map((id) => <option key={id} value={String(id)}>{says(id)}</option>)}
      </select>
      <span class="small">minus that of</span>
      <select aria-label="Minus another token" value={other === null ? "" : String(other)} onChange={(event) => set("b", event.currentTarget.value === "" ? undefined : Number(event.currentTarget.value))}>
        <option value="">nothing</option>
        {offers.filter((id) => id !== token).map((id) => <option key={id} value={String(id)}>{says(id)}</option>)}
      </select>
      {isLive.value ? (
        <form class="row" onSubmit={(event) => { event.preventDefault(); if (/^\d+$/.test(typed)) { set("token", Number(typed)); set("a", Number(typed)); } }}>
          <input aria-label="Id of another token" inputMode="numeric" placeholder="another id" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} /> <button>Take apart</button>
        </form>
      ) : null}
    </div>
  );
}

interface PartsProps {
  shown: Series;
  logit: Series;
  parts: PartOf[];
  token: number;
  other: number | null;
  says: (id: number) => string;
  signed: boolean;
}

function Parts({ shown, logit, parts, token, other, says, signed }: PartsProps) {
  const kinds = byKind(parts);
  const total = sums(shown, [parts.map((_, i) => i)]);
  const groups = sums(shown, kinds.map(([, group]) => group));
  const { shown: top, rest } = largest(shown.values, SHOWN);
  const others = sums(shown, [rest]);
  const best = parts[top[0] ?? 0];
  const what = other === null ? <code>{says(token)}</code> : <><code>{says(token)}</code> − <code>{says(other)}</code></>;
  const bars: Bar[] = top.map((i) => ({ label: nameOf(parts[i]), title: parts[i]?.name ?? "", marks: [{ series: shown, indices: [i] }], ...(chosen(parts[i]) ? { selected: true } : {}), onClick: () => pick(parts[i]) }));
  if (rest.length) bars.push({ label: `the other ${rest.length}`, rest: true, marks: [{ series: others, indices: [0] }] });
  return (
    <>
      <p class="lead">
        {signed ? "B − A: t" : "T"}he logit of {what} is <Cell series={logit} indices={[]} format={signed ? withSign : readable} />; its {parts.length} parts sum to <Cell series={total} indices={[0]} format={signed ? withSign : readable} />. The largest part is <b>{nameOf(best)}</b>.
      </p>
      <div class="side-by-side">
        <section>
          <h2>By kind</h2>
          <Bars signed label="Contributions by kind of part" bars={kinds.map(([kind, group], i) => ({ label: group.length === 1 && KINDS[kind]?.startsWith("all") ? kind : (KINDS[kind] ?? kind), title: `${group.length} of ${parts.length} parts`, marks: [{ series: groups, indices: [i] }] }))} />
          <Growth shown={shown} parts={parts} />
        </section>
        <section>
          <h2>The largest parts</h2>
          <Bars signed label="The largest contributions" bars={bars} />
        </section>
      </div>
      <Table shown={shown} parts={parts} />
    </>
  );
}

function layersOf(parts: readonly PartOf[]): number {
  return Math.max(-1, ...parts.map(({ layer }) => layer ?? -1)) + 1;
}

/** What the logit is after each layer, read with the scale of the last. */
function Growth({ shown, parts }: { shown: Series; parts: PartOf[] }) {
  const layers = layersOf(parts);
  if (!layers) return null;
  const rows = upTo(parts, layers);
  const soFar = sums(shown, rows, ["layer"]);
  const layer = selection.value.layer;
  return (
    <>
      <h2>Layer by layer</h2>
      <LineChart label="The logit after each layer" xLabel="layers counted" yLabel="sum so far" zero height={190} lines={[{ name: "sum so far", series: soFar, x: rows.map((_, i) => i) }]} markX={layer === null ? null : layer + 1} />
    </>
  );
}

/** Heads and the MLP of each layer as a table of colours. */
function Table({ shown, parts }: { shown: Series; parts: PartOf[] }) {
  const layers = layersOf(parts);
  const heads = Math.max(-1, ...parts.map(({ head }) => head ?? -1)) + 1;
  if (!layers || !heads) return null;
  const index = new Map(parts.map((part, i) => [part.kind === "head" ? `${part.layer} ${part.head}` : part.kind === "mlp" ? `${part.layer} ${heads}` : part.name, i]));
  const mlp = parts.some(({ kind }) => kind === "mlp");
  const at = (row: number, column: number): number => index.get(`${row} ${column}`) ?? -1;
  const columns = heads + (mlp ? 1 : 0);
  const table: Slice = {
    series: shown, rows: layers, columns, at: (r, c) => shown.values[at(r, c)] ?? NaN, indices: (r, c) => [at(r, c)],
    values: () => Float32Array.from({ length: layers * columns }, (_, i) => shown.values[at(Math.floor(i / columns), i % columns)] ?? NaN),
  };
  return (
    <section>
      <h2>Every head{mlp ? " and MLP" : ""}</h2>
      <Heatmap
        slice={table} scale="signed" label="Contribution of every head and MLP" mostCell={44} cellHeight={24} rowTitle="layer" columnTitle="head"
        rowLabels={Array.from({ length: layers }, (_, l) => String(l))} columnLabels={[...Array.from({ length: heads }, (_, h) => String(h)), ...(mlp ? ["MLP"] : [])]}
        picked={{ row: selection.value.layer, column: selection.value.head }} onPick={(layer, head) => select(head < heads ? { layer, head } : { layer, head: null })}
      />
    </section>
  );
}

function nameOf(part: PartOf | undefined): string {
  if (!part) return "";
  if (part.kind === "head") return `layer ${part.layer} head ${part.head}`;
  if (part.kind === "mlp") return `layer ${part.layer} MLP`;
  if (part.kind === "embed") return "embedding";
  return part.layer === null ? part.name.replace("_", " ").replace(".", " ") : `layer ${part.layer} ${part.name.replace(/^blocks\.\d+\./, "").replace(/[._]/g, " ")}`;
}

function chosen(part: PartOf | undefined): boolean {
  const { layer, head } = selection.value;
  return part !== undefined && part.kind === "head" && part.layer === layer && part.head === head;
}

function pick(part: PartOf | undefined): void {
  if (part?.layer !== null && part?.layer !== undefined) select({ layer: part.layer, head: part.head });
}

export const panel: PanelView = { id: "attribution", uses: [], here: ["a", "b"], View };
