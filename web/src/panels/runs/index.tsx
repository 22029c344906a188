// P10: runs while they train, and the ladder.
import { grouped } from "../../arithmetic/number";
import { theSource } from "../../data/store";
import { LineChart } from "../../parts/LineChart";
import type { PanelView, ViewProps } from "../view";
import type { Facts } from "./facts";
import { Ladder } from "./Ladder";
import { useListing } from "./live";
import { Runs, Written } from "./Runs";
import "./runs.css";

function View({ data, signed }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  const watched = useListing();
  if (signed) return <p class="absent">Runs are compared by their curves: look at A or at B.</p>;
  const folder = theSource().live && (watched.listing !== undefined || !facts.run);
  return (
    <div class="learning">
      {folder ? <Runs watched={watched} /> : null}
      {facts.run && !watched.listing ? <Own data={data} /> : null}
      <Ladder data={data} ladders={watched.listing?.ladders ?? []} />
    </div>
  );
}

/** The run that this model is of, as it was when the page was made. */
function Own({ data }: Pick<ViewProps, "data">) {
  const { run } = data.facts as unknown as Facts;
  const { run_loss: loss, run_loss_step: step, run_val_loss: val, run_val_loss_step: valStep } = data.series;
  if (!run || !loss || !step) return null;
  const lines = [
    { name: "training loss", series: loss, x: [...step.values] },
    ...(val && valStep && val.values.length ? [{ name: "validation loss", series: val, x: [...valStep.values] }] : []),
  ];
  return (
    <section class="runs">
      <h2>How {run.name} was trained</h2>
      <p>{run.model}, on {run.data}: {run.state} at step {grouped(run.step)}. Several runs over each other, and while they train: <code>{run.command}</code></p>
      <LineChart lines={lines} label="Loss of this run" xLabel="step" yLabel="loss, nats per token" height={260} />
      {run.samples?.length ? <Written name={run.name} colour={0} written={run.samples} /> : null}
    </section>
  );
}

export const panel: PanelView = { id: "runs", uses: [], here: ["runs", "metric", "view", "card", "ladder"], View };
