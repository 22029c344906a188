// P12: weights in 8 or 4 bits.
import { isLive } from "../../app";
import { bytes as inBytes, percent } from "../../arithmetic/number";
import { Segmented } from "../../parts/Segmented";
import { Switch } from "../../parts/Switch";
import type { PanelView, ViewProps } from "../view";
import { Block } from "./Block";
import { explain } from "./explain";
import type { Facts } from "./facts";
import { Matrix } from "./Matrix";
import { Whole } from "./Whole";
import "./packing.css";

function View({ data, signed, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  if (!data.series.errors) return <p class="absent">A and B have other matrices: look at A or at B.</p>;
  if (signed) return <div class="packing"><p class="small">How much nearer (negative) or farther B's matrices are than A's in each format. Blocks and codes have no difference that could be drawn.</p><Whole data={data} facts={facts} signed set={set} /></div>;
  const choose = (name: string, value: string | undefined): void => {
    set("block", undefined);
    set(name, value);
  };
  return (
    <div class="packing">
      <div class="controls">
        <Segmented label="format" named value={facts.scheme} onChange={(value) => choose("scheme", value === "nf4" ? undefined : value)} choices={facts.schemes.map((one) => ({ value: one.name, label: one.name, title: `${one.bits.toFixed(2)} bits a weight, ${one.size} weights to a scale` }))} />
        <Switch label="wrong order of half-bytes" wrong on={data.options.fault === "nibbles"} onChange={(on) => set("fault", on ? "nibbles" : undefined)} title={facts.scheme === "int8" ? "int8 has one code a byte: nothing changes" : "Read back with the two halves of every byte exchanged"} />
      </div>
      <p class="lead">
        <code>{facts.name}</code>, {facts.shape[0]} × {facts.shape[1]}, takes {inBytes(facts.bytes)} in {facts.scheme}, {facts.bits.toFixed(2)} bits a weight, and comes back {percent(facts.error)} off.{filled(facts)}
        {facts.packed ? ` This model is packed in ${facts.packed} already: what its codes stand for is packed once more here.` : ""}
      </p>
      <Block data={data} facts={facts} set={set} live={isLive.value} />
      <Whole data={data} facts={facts} signed={false} set={set} />
      <Matrix data={data} facts={facts} />
    </div>
  );
}

/** Where rows are no whole number of blocks. */
function filled(facts: Facts): string {
  const [format, width] = [facts.schemes.find((one) => one.name === facts.scheme), facts.shape[1]];
  const over = format && facts.scheme.startsWith("int") ? width % format.size : 0;
  return over && format ? ` Its rows of ${width} are filled up to ${width - over + format.size}, since no block of ${facts.scheme} goes on in the next row.` : "";
}

export const panel: PanelView = {
  id: "packing",
  place: "Machine",
  title: "Packing",
  question: "A weight of 32 bits is kept in 4. How far off is it when it comes back?",
  uses: ["layer"],
  View,
  explain,
  guess: {
    choices: ["about 1 %", "about 10 %", "about half"],
    answer(data) {
      const facts = data.facts as unknown as Facts;
      const choice = facts.error < 0.03 ? 0 : facts.error < 0.25 ? 1 : 2;
      return { choice, says: `${percent(facts.error)} of the size of the weights, in ${facts.scheme}.` };
    },
  },
};
