// The drawer at the right: the question, three sentences, the formula, the source lines that ran, the checks.
import type { About, Check, PanelData, SourceLines } from "../data/types";
import { sentence } from "./Chips";
import { drawer, toggle } from "./drawers";
import { Formula } from "./Formula";

export function Explanation({ about, data }: { about: About; data: PanelData | undefined }) {
  const { question, sentences, formula } = about;
  return (
    <aside class="explain" aria-label="Explanation" data-open={drawer.value === "explain"}>
      <div class="drawer-head">
        <h2>Explain</h2>
        <button class="close" aria-label="Close the explanation" onClick={() => toggle("explain")}>×</button>
      </div>
      <p class="question">{question}</p>
      {sentences.map((one) => <p key={one}>{one}</p>)}
      {formula ? <Formula node={formula} /> : null}
      {data?.checks.length ? <Checks checks={data.checks} /> : null}
      {data?.source.length ? <h3>The code that ran</h3> : null}
      {data?.source.map((one) => <Source key={`${one.path}:${one.line}`} {...one} />)}
    </aside>
  );
}

function Checks({ checks }: { checks: readonly Check[] }) {
  return (
    <>
      <h3>Checked on these numbers</h3>
      <ul class="check-lines">
        {checks.map((check, i) => (
          <li key={i} data-ok={check.ok}><b>{check.id}</b> {sentence(check)}.</li>
        ))}
      </ul>
    </>
  );
}

function Source({ path, line, text }: SourceLines) {
  const name = /(?:def|class) (\w+)/.exec(text)?.[1];
  return (
    <details class="source">
      <summary><code>{name ?? path}</code> <span class="small">{path}:{line}</span></summary>
      <pre tabIndex={0}>{text.split("\n").map((one, i) => <code key={i} data-line={line + i}>{one}{"\n"}</code>)}</pre>
    </details>
  );
}
