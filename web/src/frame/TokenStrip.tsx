// The prompt as the model reads it: one chip a token. A click chooses the query.
import { cssColour, inkOn, type Scale, scaleOf } from "../arithmetic/colour";
import { signed } from "../arithmetic/number";
import { visible } from "../arithmetic/text";
import { sides } from "../data/store";
import type { Sides, Token } from "../data/types";
import { Legend } from "../parts/Legend";
import { hover, select, selection } from "../state";
import { dark } from "../theme";

export function TokenStrip() {
  const shown = sides.value;
  if (!shown) return null;
  const change = changes(shown);
  const scale = change ? scaleOf(change, "signed") : null;
  const { query, key } = selection.value;
  return (
    <section class="tokens-row" aria-label="Prompt">
      <ol class="tokens" aria-label="Tokens of the prompt">
        {shown.A.tokens.map((token, i) => (
          <li key={i}>
            <button
              class="token" data-special={token.special} data-query={i === query} data-key={i === key} aria-pressed={i === query}
              title={titled(token, i, shown, change?.[i])} style={scale ? coloured(change?.[i], scale) : {}}
              onClick={() => select({ query: i })} onPointerEnter={() => hover({ query: i })} onPointerLeave={() => hover({})}
            >
              {visible(token.text)}
            </button>
          </li>
        ))}
      </ol>
      {scale ? <div class="row small">Colour: change in log-probability from A to B <Legend scale={scale} /></div> : null}
    </section>
  );
}

/** What B adds to each token's log-probability; NaN for the first, which nothing predicts. */
function changes({ A, B }: Sides): number[] | null {
  return B ? A.logprobs.map((one, i) => (B.logprobs[i] ?? NaN) - (one ?? NaN)) : null;
}

function coloured(change: number | undefined, scale: Scale): Record<string, string> {
  return change === undefined || Number.isNaN(change) ? {} : { background: cssColour(change, scale, dark.value), color: inkOn(change, scale, dark.value) };
}

function titled(token: Token, i: number, { A, B }: Sides, change: number | undefined): string {
  const lines = [`position ${i}, id ${token.id}${token.special ? ", a special token" : ""}`, JSON.stringify(token.text)];
  const logprob = A.logprobs[i];
  if (typeof logprob === "number") lines.push(`log-probability ${signed(logprob)}${B ? ` in A, ${signed(B.logprobs[i] ?? NaN)} in B (${signed(change ?? NaN)})` : ""}`);
  return lines.join("\n");
}
