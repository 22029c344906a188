// The number under the pointer or cursor: its name, shape and source, and the Python that prints it.
import { useState } from "preact/hooks";
import { readable } from "../arithmetic/number";
import { nameOf, program, valueAt } from "../data/python";
import { pointed } from "../state";
import { copied } from "./clipboard";

export function NumberLine() {
  const at = pointed.value;
  const [said, say] = useState<{ at: unknown; text: string } | null>(null);
  if (!at)
    return <footer class="row number-line" data-empty="true"><span class="small">Point at a number to see where it comes from; click to keep it here.</span></footer>;
  const { series, indices } = at;
  const copy = async (): Promise<void> => say({ at, text: await copied(program(series, indices)) });
  return (
    <footer class="row number-line" data-pinned={at.pinned} data-kind={series.kind} data-source={series.source}>
      <code class="number-name">{nameOf(series, indices)} = <b>{readable(valueAt(series, indices))}</b></code>
      <span class="small dims">{series.dims.map((dim, d) => `${dim} ${indices[d] ?? 0} of ${series.shape[d]}`).join(", ")}</span>
      <span class="kind" data-kind={series.kind}>{series.kind}</span>
      <span class="small formula-source" title={series.source}>{series.source}</span>
      <button class="copy" onClick={() => void copy()}>{said?.at === at ? said.text : "Copy as Python"}</button>
      {at.pinned ? <button aria-label="Let the number go" title="Let the number go (Esc)" onClick={() => (pointed.value = null)}>×</button> : null}
    </footer>
  );
}
