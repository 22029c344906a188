// P12: weights in 8 or 4 bits.
import { isLive } from "../../app";
import { bytes as inBytes, percent } from "../../arithmetic/number";
import { Segmented } from "../../parts/Segmented";
import { Switch } from "../../parts/Switch";
import type { PanelView, ViewProps } from "../view";
import { Block } from "./Block";
import type { Facts } from "./facts";
import { Matrix } from "./Matrix";
import { Whole } from "./Whole";
import "./packing.css";

function View({ data, signed, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  if (!data.series.errors) return <p class="absent">A and B have different matrices: look at A or at B.</p>;
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
        <code>{facts.name}</code>, {facts.shape[0]} × {facts.shape[1]}, takes {inBytes(facts.bytes)} in {facts.scheme}, {facts.bits.toFixed(2)} bits a weight, and comes back {percent(facts.error)} off.{facts.filled}
        {facts.packed ? ` This model is packed in ${facts.packed} already: what its codes stand for is packed once more here.` : ""}
      </p>
      <Block data={data} facts={facts} set={set} live={isLive.value} />
      <Whole data={data} facts={facts} signed={false} set={set} />
      <Matrix data={data} facts={facts} />
    </div>
  );
}

export const panel: PanelView = { id: "packing", uses: ["layer"], View };
