// P8: a text grows by a token a pass, with a cache and without one.
import { noted } from "../../parts/Note";
import { useState } from "preact/hooks";
import { isLive } from "../../app";
import { median } from "../../arithmetic/chart";
import { grouped, readable } from "../../arithmetic/number";
import { visible } from "../../arithmetic/text";
import { parting, product } from "../../arithmetic/wires";
import type { PanelData, Series } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Segmented } from "../../parts/Segmented";
import { Slider } from "../../parts/Slider";
import { Table } from "../../parts/Table";
import { Timed } from "../../parts/Timed";
import type { PanelView, ViewProps } from "../view";
import { Columns } from "./Columns";
import { Live } from "./Live";
import { ENDS, type Facts, type Row } from "./rows";
import "./generation.css";

const FAULTS = [
  { value: "none", label: "right", title: "The cache as it is" },
  { value: "offset", label: "positions off by one", title: "Every token after the prompt stands one position too far to the right" },
  { value: "mask", label: "no mask in the prompt", title: "The tokens of the prompt see those after them" },
  { value: "unrotated", label: "cached before rotation", title: "Keys are kept as they were before rotation" },
] as const;

function View({ data, signed, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  const [picked, pick] = useState<number | null>(null);
  const { made, reused } = data.series;
  if (signed || !made || !reused) return <p class="absent">Two texts have no difference that could be drawn: look at A or at B.</p>;
  const twins = facts.rows.every((row) => row.twin) ? facts.rows.map((row) => row.twin as NonNullable<Row["twin"]>) : null;
  const at = twins ? parting(facts.rows.map((row) => row.id), twins.map((row) => row.id)) : -1;
  return (
    <div class="generation">
      <div class="controls">
        <Segmented label="the cache" named choices={FAULTS.map((one) => ({ ...one }))} value={(data.options.fault as "offset" | null) ?? "none"} onChange={(value) => set("fault", value === "none" ? undefined : value)} />
        {isLive.value ? <Slider label="tokens" value={Number(data.options.max_new_tokens)} min={1} max={64} onChange={(x, dragged) => set("max_new_tokens", x, dragged)} /> : null}
        {isLive.value ? <Slider label="temperature" value={Number(data.options.temperature)} min={0} max={2} step={0.1} onChange={(x, dragged) => set("temperature", x, dragged)} /> : null}
      </div>
      {facts.note ? <p class="message">Nothing changes: {facts.note}.</p> : null}
      <Text name={data.options.cache ? "with the cache" : "without a cache"} tokens={facts.rows} from={at} picked={picked} onPick={pick} />
      {twins ? <Text name="without a cache" tokens={twins} from={at} picked={picked} onPick={pick} /> : null}
      {at >= 0 ? <p class="verdict wrong">✗ From token {at + 1} on the texts differ.</p> : twins ? <p class="verdict right">✓ The same text, token by token.</p> : null}
      {ENDS[facts.done] ? <p class="small">{ENDS[facts.done]}</p> : null}
      <section>
        <h2>What each pass computes</h2>
        <p class="small"><span class="key">■</span> key and <span class="value">■</span> value {noted("made")}</p>
        <div class="side-by-side">
          <Columns title={data.options.cache ? "with the cache" : "without a cache"} made={Array.from(made.values)} reused={Array.from(reused.values)} prompt={facts.prompt_tokens} picked={picked} onPick={pick} source={made.source} />
          {twins ? <Columns title="without a cache" made={twins.map((row) => row.made)} reused={twins.map(() => 0)} prompt={facts.prompt_tokens} picked={picked} onPick={pick} source="tokens that the pass read" /> : null}
        </div>
      </section>
      <Bytes data={data} facts={facts} step={picked ?? facts.rows.length - 1} />
      <Steps data={data} facts={facts} picked={picked} onPick={pick} />
      {isLive.value ? <Live options={data.options} /> : null}
    </div>
  );
}

interface TextProps {
  name: string;
  tokens: readonly { id: number; text: string }[];
  /** Where the texts part; −1: they do not. */
  from: number;
  picked: number | null;
  onPick: (step: number | null) => void;
}

function Text({ name, tokens, from, picked, onPick }: TextProps) {
  return (
    <p class="grown">
      <span class="small grown-name">{name}</span>
      <span class="grown-text" data-text={tokens.map((one) => one.text).join("")}>
        {tokens.map((one, i) => (
          <span key={i} class="grown-token" title={`id ${one.id}`} data-differs={from >= 0 && i >= from} data-picked={picked === i} onPointerEnter={() => onPick(i)}>{visible(one.text)}</span>
        ))}
      </span>
    </p>
  );
}

function Bytes({ data, facts, step }: { data: PanelData; facts: Facts; step: number }) {
  const { bytes, allocated } = data.series;
  const { n_layer, n_kv_head, head_dim, itemsize } = facts.sizes;
  if (!bytes || !allocated) return <p class="small">Nothing is kept: 0 bytes.</p>;
  if (!n_layer) return <p class="small">No layer has keys or values here: 0 bytes.</p>;
  const tokens = facts.prompt_tokens + step;
  return (
    <section class="kept">
      <h2>What is kept</h2>
      <p class="counter"><Cell series={bytes} indices={[step]} format={grouped} /> bytes after pass {step + 1}</p>
      <p class="small">
        2 · layers · heads · channels · tokens · bytes a number: {product([2, n_layer, n_kv_head, head_dim, tokens, itemsize])}
        {facts.windowed ? "; layers with a window keep less of a long text" : ""}. The whole cache, for {facts.capacity} tokens, takes <Cell series={allocated} indices={[0]} format={grouped} /> bytes.
      </p>
    </section>
  );
}

function Steps({ data, facts, picked, onPick }: { data: PanelData; facts: Facts; picked: number | null; onPick: (step: number) => void }) {
  const { made, reused, bytes, residual, logprobs } = data.series;
  const cell = (series: Series | undefined, i: number, format?: (x: number) => string) => (series ? <Cell series={series} indices={[i]} {...(format ? { format } : {})} /> : "–");
  const usual = (which: (row: Row) => number): string => readable(1000 * (median(facts.rows.slice(1).map(which)) ?? NaN));
  const twins = facts.rows.some((row) => row.twin);
  return (
    <section>
      <h2>Pass by pass</h2>
      <p class="small">
        {facts.rows.length > 1 ? `A token after the first took ${usual((row) => row.seconds)} ms${twins ? `, and ${usual((row) => row.twin?.seconds ?? NaN)} ms without a cache` : ""}: the median, measured on this machine, block by block. ` : ""}
        The longer the text, the more a cache saves.
      </p>
      <Table
        caption={noted("passes")}
        columns={[{ name: "pass", number: true }, { name: "token" }, { name: "log-probability", number: true }, { name: "made", number: true }, { name: "reused", number: true }, { name: "bytes", number: true }, { name: "ms", number: true }, { name: "ms without", number: true }, { name: "logits off by", number: true }]}
        picked={picked} onPick={onPick}
        rows={facts.rows.map((row, i) => [
          String(i + 1), <code key="t">{visible(row.text)}</code>, cell(logprobs, i), cell(made, i), cell(reused, i), cell(bytes, i, grouped), <Timed key="s" seconds={row.seconds} />, <Timed key="w" seconds={row.twin?.seconds} />,
          row.residual === null ? "–" : cell(residual, i),
        ])}
      />
    </section>
  );
}

export const panel: PanelView = { id: "generation", uses: [], View };
