// The ladder as cards: what each idea bought, or is worth in the finished models, and what changes for it.
import { counted, grouped, readable, signed } from "../../arithmetic/number";
import type { PanelData, Series } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Segmented } from "../../parts/Segmented";
import { useHere } from "../../parts/useChoice";
import { AwayCard, RungCard } from "./Card";
import type { Facts, Ladder as LadderData, Mean } from "./facts";
import { useLadder } from "./live";
import { type Estimate, widths } from "./interval";

const VIEWS = [{ value: "rungs", label: "rung by rung" }, { value: "away", label: "leave one out" }] as const;
const WIDTH = 100;

interface Row {
  key: string;
  title: string;
  mean: Mean | null;
  /** The series of its number, and where in it. */
  mark: [Series, number] | null;
  group?: string;
}

export function Ladder({ data: own, ladders }: { data: PanelData; ladders: readonly string[] }) {
  const [name, setName] = useHere("runs", "ladder", "");
  const { ladder: other, error } = useLadder(ladders.includes(name) ? name : "");
  const { ladder: first, recorded: usual } = own.facts as unknown as Facts;
  const [ladder, recorded] = [other ?? first, usual && !other];
  const data = other ? withSeries(own, other) : own;
  const [view, setView] = useHere("runs", "view", "rungs");
  const [card, setCard] = useHere("runs", "card", "");
  const rows = view === "rungs" ? rungRows(ladder, data) : awayRows(ladder, data);
  const begin = view === "rungs" ? "rope" : "attention";
  const known = view === "rungs" ? ladder.rungs.map((one) => one.key) : ladder.take_aways.map((one) => one.key);
  const open = known.includes(card) ? card : known.includes(begin) ? begin : known[0] ?? "";
  const rung = ladder.rungs.find((one) => one.key === open);
  const away = ladder.take_aways.find((one) => one.key === open);
  return (
    <section class="ladder">
      <h2>The ladder: from a bigram to LLaMA, one idea at a time</h2>
      {ladders.length ? <Segmented label="ladder" choices={[{ value: "", label: usual ? "recorded" : "this model's" }, ...ladders.map((one) => ({ value: one, label: one }))]} value={ladders.includes(name) ? name : ""} onChange={(one) => setName(one)} /> : null}
      {error ? <p class="note" role="status">{error}</p> : null}
      <p>{recorded ? "Recorded with the package" : "The ladder of this folder"}: {ladder.text}, {grouped(ladder.steps)} steps, {ladder.seeds} seeds{ladder.complete ? "" : "; it was interrupted, and only what is finished is shown"}. {view === "rungs" ? "How far the loss falls when an idea is added to those before it." : "How far the loss of the finished model rises when one idea is left out."}</p>
      <Segmented label="question" choices={VIEWS} value={view === "away" ? view : "rungs"} onChange={(one) => setView(one)} />
      <Estimates rows={rows} open={open} onOpen={setCard} view={view} />
      {view === "rungs" && rung ? <RungCard card={rung} data={data} below={ladder.rungs.find((one) => one.title === rung.below)} /> : null}
      {view === "away" && away ? <AwayCard card={away} /> : null}
    </section>
  );
}

/** With the numbers of a ladder of the folder, whose Python reads the same ladder.json. */
function withSeries(own: PanelData, ladder: LadderData): PanelData {
  const series = Object.entries(ladder.series ?? {}).map(([name, one]) => [name, { ...one, name, side: "A", preamble: "", values: Float64Array.from(one.values) }]);
  return { ...own, series: Object.fromEntries(series) };
}

function awayOrder({ take_aways: ideas }: LadderData) {
  const models = [...new Set(ideas.flatMap((idea) => idea.models.map((one) => one.title)))];
  return models.flatMap((group) => ideas.flatMap(({ key, title, models: all }) => all.filter((one) => one.title === group).map(({ worth }) => ({ key, title, worth, group }))));
}

function rungRows({ rungs }: LadderData, data: PanelData): Row[] {
  let at = 0;
  return rungs.map(({ key, title, bought }) => ({ key, title, mean: bought, mark: mark(data.series.bought, bought ? at++ : -1) }));
}

/** GPT's first, then LLaMA's, as the series has them. */
function awayRows(ladder: LadderData, data: PanelData): Row[] {
  return awayOrder(ladder).map(({ key, title, worth, group }, at) => ({ key, title: `– ${title}`, mean: worth, group, mark: mark(data.series.worth, at) }));
}

const mark = (series: Series | undefined, at: number): [Series, number] | null => (series && at >= 0 ? [series, at] : null);

function Estimates({ rows, open, onOpen, view }: { rows: readonly Row[]; open: string; onOpen: (key: string) => void; view: string }) {
  // without the mask a model is worse by several nats: beside it no other interval could be seen
  const shown = rows.filter(({ mean }) => mean && Math.abs(mean.mean) < 1.5);
  const place = widths(shown.map(({ mean }) => estimate(mean)), WIDTH);
  return (
    <table class="estimates" aria-label={view === "rungs" ? "What each idea gained" : "What each idea is worth"}>
      <tbody>
        {rows.map((row, i) => (
          <>
            {row.group && row.group !== rows[i - 1]?.group ? <tr key={row.group} class="estimate-group"><th scope="rowgroup" colSpan={3}>{row.group} without …</th></tr> : null}
            <tr key={`${row.group}${row.key}`} data-selected={row.key === open}>
              <th scope="row"><button class="plain" aria-pressed={row.key === open} onClick={() => onOpen(row.key)}>{row.title}</button></th>
              <td>{row.mean ? <Interval {...estimate(row.mean)} place={place} sign={row.mean.sign ?? null} /> : null}</td>
              <td class="estimate-value">{row.mean && row.mark ? <><Cell series={row.mark[0]} indices={[row.mark[1]]} format={(x) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(x).toFixed(3)}`} /> <span class="small">± {(row.mean.half_width ?? 0).toFixed(3)}</span></> : <span class="small">the first</span>}</td>
            </tr>
          </>
        ))}
      </tbody>
    </table>
  );
}

function estimate(one: Mean | null): Estimate {
  return { mean: one?.mean ?? 0, half: one?.half_width ?? 0 };
}

/** The mean as a bar from 0, its interval as a line; what does not fit ends in an arrow. */
function Interval({ mean, half, place, sign }: Estimate & { place: (x: number) => number; sign: number | null }) {
  const within = (x: number): number => Math.min(WIDTH, Math.max(0, place(x)));
  const fits = (x: number): boolean => place(x) >= -1e-9 && place(x) <= WIDTH + 1e-9;
  const [low, high] = [mean - half, mean + half];
  return (
    <svg class="interval" viewBox={`0 0 ${WIDTH} 16`} preserveAspectRatio="none" role="img" aria-label={`${signed(mean)} ± ${readable(half)}`} data-sign={sign}>
      <line class="interval-bar" x1={place(0)} x2={within(mean)} y1={8} y2={8} />
      <line class="interval-zero" x1={place(0)} x2={place(0)} y1={0} y2={16} />
      <line class="interval-range" x1={within(low)} x2={within(high)} y1={8} y2={8} />
      {fits(low) ? <line class="interval-end" x1={place(low)} x2={place(low)} y1={4} y2={12} /> : <path class="interval-end" d="M2,4L0.5,8L2,12" />}
      {fits(high) ? <line class="interval-end" x1={place(high)} x2={place(high)} y1={4} y2={12} /> : <path class="interval-end" d={`M${WIDTH - 2},4L${WIDTH - 0.5},8L${WIDTH - 2},12`} />}
    </svg>
  );
}

export function parameters(n: number, below: number | undefined): string {
  const more = below === undefined ? "" : ` (${n >= below ? "+" : "−"}${grouped(Math.abs(n - below))})`;
  return `${counted(n)}${more}`;
}
