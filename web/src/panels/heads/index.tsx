// P3: all heads at once.
import { useMemo, useState } from "preact/hooks";
import { byLayer, inOrder, ordered } from "../../arithmetic/heads";
import { readable } from "../../arithmetic/number";
import { valueAt } from "../../data/python";
import type { Series } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Segmented } from "../../parts/Segmented";
import { Switch } from "../../parts/Switch";
import { useWidth } from "../../parts/useWidth";
import { locked, optionsOf, select } from "../../state";
import type { PanelView, ViewProps } from "../view";
import { HeadSheet } from "./HeadSheet";
import { Zoom } from "./Zoom";
import "./heads.css";

export const SORTS = [
  { value: "layer", label: "layer", title: "As they stand in the model" },
  { value: "sink", label: "sink", title: "Share of attention to the first token" },
  { value: "previous", label: "previous token", title: "Share of attention to the token just before" },
  { value: "induction", label: "induction", title: "Share of attention to what followed the same token before" },
  { value: "entropy", label: "entropy", title: "The sharpest patterns first" },
  { value: "out_norm", label: "out-norm", title: "Size of what the head adds to the stream" },
] as const;
type Sort = (typeof SORTS)[number]["value"];

export interface Facts {
  group: number;
  copies: number;
  tokens: { id: number; text: string }[];
  after: boolean;
}

interface At {
  layer: number;
  head: number;
}

function View({ data, signed, options, set }: ViewProps) {
  const { group, copies, after } = data.facts as unknown as Facts;
  const { thumbs, largest } = data.series;
  const [hovered, setHovered] = useState<At | null>(null);
  const { ref, width } = useWidth<HTMLDivElement>();
  const own = optionsOf("heads");
  const sort = (SORTS.find(({ value }) => value === own.sort)?.value ?? "layer") as Sort;
  const [hide, weigh, log] = [own.hide === true, own.weigh === true, own.log === true];
  const view = (weigh ? 2 : 0) + (hide ? 1 : 0);
  const [, layers = 0, heads = 0] = thumbs?.shape ?? [];
  const by = sort === "layer" ? undefined : data.series[sort];
  const order = useMemo(() => (by ? ordered(by.values, sort === "entropy") : null), [by, sort]);
  const sheet = useMemo(() => (order ? inOrder(order, heads, width) : byLayer(layers, heads, width, group)), [order, layers, heads, width, group]);
  const caption = useMemo(() => (layer: number, head: number) => `${layer}.${head}  ${by ? readable(valueAt(by, [layer, head])) : ""}`, [by]);
  if (!thumbs) return <p class="absent">A and B have different numbers of heads or tokens: look at A or at B.</p>;

  const { layer, head } = locked.value;
  const first = sheet.places[0];
  const inside = layer !== null && head !== null && layer < layers && head < heads;
  const picked: At | null = inside ? { layer, head } : first ? { layer: first.layer, head: first.head } : null;
  const shown = hovered ?? picked;
  const text = options.text === "twice" ? "twice" : "prompt";
  return (
    <>
      <div class="controls">
        <Segmented label="Sort by" named choices={SORTS} value={sort} onChange={(value) => set("sort", value === "layer" ? undefined : value)} />
        <Segmented
          label="Text" named value={text} onChange={(value) => set("text", value === "prompt" ? undefined : value)}
          choices={[{ value: "prompt", label: "the prompt" }, { value: "twice", label: "random tokens, repeated", title: "A text in which only copying helps" }]}
        />
        <span class="row">
          <Switch label="hide first token" on={hide} title="What is left, as bright as can be" onChange={(on) => set("hide", on || undefined)} />
          <Switch label="log colour" on={log} onChange={(on) => set("log", on || undefined)} />
          <Switch label="weight by ‖v W_out‖" on={weigh} title="By the size of what each key's value adds to the stream through this head" onChange={(on) => set("weigh", on || undefined)} />
        </span>
      </div>
      <p class="small" aria-live="polite">
        {sort === "induction" && copies === 0 ? "No token repeats in this text, so no head can show induction: try random tokens, repeated. " : ""}
        {largest && !signed && view > 0 ? <>The brightest colour is <Cell series={largest} indices={[view]} />{weigh ? "; rows do not sum to 1 here" : ""}. </> : null}
        {weigh && after ? "The norm after attention is not counted. " : ""}
        {group > 1 && !order ? `Framed: ${group} heads that share one head of keys and values. ` : ""}
      </p>
      <div class="heads-columns">
        <div class="scrolls" ref={ref}>
          <HeadSheet
            sheet={sheet} thumbs={thumbs} view={view} log={log} signed={signed} group={group} byLayer={!order} caption={caption} picked={picked}
            onPick={(l, h) => select({ layer: l, head: h })} onHover={setHovered}
          />
        </div>
        {shown ? <Numbers data={data.series} at={shown} sort={sort} /> : null}
      </div>
      {picked ? <Zoom layer={picked.layer} head={picked.head} hide={hide} weigh={weigh} log={log} text={text} /> : null}
    </>
  );
}

/** What one head does, in numbers. */
function Numbers({ data, at, sort }: { data: Record<string, Series>; at: At; sort: Sort }) {
  return (
    <div class="box head-numbers">
      <p class="head-name">Layer {at.layer}, head {at.head}</p>
      <dl>
        {SORTS.map(({ value, label, title }) => {
          const series = data[value];
          return series ? (
            <div key={value} data-sorted={sort === value}>
              <dt title={title}>{label}</dt>
              <dd>{Number.isNaN(valueAt(series, [at.layer, at.head])) ? "no token repeats" : <Cell series={series} indices={[at.layer, at.head]} />}</dd>
            </div>
          ) : null;
        })}
      </dl>
    </div>
  );
}

export const panel: PanelView = { id: "heads", uses: [], here: ["sort", "hide", "log", "weigh"], View };
