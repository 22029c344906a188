// The loss of the prompt while the change, or the weights themselves, are cut to a rank; and while the change is scaled.
import { Note } from "../../parts/Note";
import { Cell } from "../../parts/Cell";
import { LineChart, type Line } from "../../parts/LineChart";
import { Slider } from "../../parts/Slider";
import { useChoice } from "../../parts/useChoice";
import type { ViewProps } from "../view";
import { indexOf, type Facts } from "./facts";

type Tone = NonNullable<Line["tone"]>;
const CUTS: readonly [string, string, Tone][] = [
  ["cut_lora", "W + ΔW of LoRA, ΔW cut to r", "value"], ["cut_full", "W + ΔW of the full fine-tune, ΔW cut to r", "query"],
  ["cut_weights", "the weights themselves cut to r", "key"],
];
const SCALES: readonly [string, string, Tone][] = [["scaled_lora", "W + weight × ΔW of LoRA", "value"], ["scaled_full", "W + weight × ΔW of the full fine-tune", "query"]];

export function Ranks({ data, options }: ViewProps) {
  const { full_rank: full } = data.facts as unknown as Facts;
  const [rank, setRank] = useChoice<number>("lora", options, "rank", 4);
  const { ranks } = data.series;
  if (!ranks) return null;
  const x = [...ranks.values];
  const lines = CUTS.flatMap(([key, name, tone]) => {
    const series = data.series[key];
    return series ? [{ name, series, x, tone }] : [];
  });
  const at = indexOf(ranks.values, Math.min(rank, full));
  return (
    <section class="lora-wide">
      <h2>How much rank does it need?</h2>
      <Slider label="rank r" value={Math.min(rank, full)} min={1} max={full} format={(r) => `${r} of ${full}`} onChange={(r, dragged) => setRank(r, dragged)} />
      <p class="row">
        {lines.map(({ name, series, tone }) => <span key={name} class="lora-figure" data-colour="0" data-tone={tone}>{name}: {at < 0 ? "…" : <Cell series={series} indices={[at]} />}</span>)}
      </p>
      <LineChart lines={lines} label="Loss of the prompt at each rank" xLabel="rank r" yLabel="loss, nats per token" markX={Math.min(rank, full)} onPick={(r) => setRank(Math.max(1, r))} />
    </section>
  );
}

export function Weights({ data, options }: ViewProps) {
  const [weight, setWeight] = useChoice<number>("lora", options, "weight", 1);
  const { weights } = data.series;
  if (!weights) return null;
  const x = [...weights.values];
  const lines = SCALES.flatMap(([key, name, tone]) => {
    const series = data.series[key];
    return series ? [{ name, series, x, tone }] : [];
  });
  const at = indexOf(weights.values, weight);
  return (
    <section>
      <h2>How much of the change?</h2>
      <Note of="alpha" />
      <Slider label="weight of ΔW (α is this × its own)" value={weight} min={0} max={2} step={0.25} format={(w) => w.toFixed(2)} onChange={(w, dragged) => setWeight(w, dragged)} />
      <p class="row">
        {lines.map(({ name, series, tone }) => <span key={name} class="lora-figure" data-colour="0" data-tone={tone}>loss: {at < 0 ? "…" : <Cell series={series} indices={[at]} />}</span>)}
      </p>
      <LineChart lines={lines} label="Loss of the prompt at each weight of the change" xLabel="weight of ΔW" yLabel="loss, nats per token" markX={weight} height={200} onPick={(w) => setWeight(w)} />
    </section>
  );
}
