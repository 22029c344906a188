// The checks of a panel: identities evaluated on the numbers that are drawn.
import { readable } from "../arithmetic/number";
import type { Check } from "../data/types";
import { drawer } from "./drawers";

export function Chips({ checks }: { checks: readonly Check[] }) {
  return (
    <ul class="row chips" aria-label="Checks">
      {checks.map((check, i) => (
        <li key={i}>
          <button class="chip" data-check={check.id} data-ok={check.ok} title={sentence(check)} onClick={() => (drawer.value = "explain")}>
            <span aria-hidden="true">{check.ok ? "✓" : "✕"}</span> {check.id} <small>{readable(check.residual)}</small>
            <span class="unseen">{check.ok ? " holds: " : " fails: "}{check.says}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}

export function sentence(check: Check): string {
  const allowed = check.tolerance === 0 ? "none is allowed" : `${readable(check.tolerance)} is allowed`;
  return `${check.says}: ${check.ok ? "holds" : "does not hold"}, off by ${readable(check.residual)}, ${allowed}`;
}
