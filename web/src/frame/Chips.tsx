// The checks of a panel: identities evaluated on the numbers that are drawn.
import { readable } from "../arithmetic/number";
import type { Check } from "../data/types";
import { drawer } from "./drawers";

/** What holds of one identity as one chip, with the worst of its residuals; what fails as one each, in words. */
export function Chips({ checks }: { checks: readonly Check[] }) {
  const shown = checks.flatMap((check) => {
    const all = check.ok ? checks.filter(({ id, ok }) => ok && id === check.id) : [check];
    return all[0] === check ? [{ ...check, all, residual: Math.max(...all.map((one) => one.residual)) }] : [];
  });
  return (
    <ul class="row chips" aria-label="Checks">
      {shown.map(({ id, ok, says, residual, all }) => (
        <li key={id + says}>
          <button class="chip" data-check={id} data-ok={ok} title={all.map(sentence).join("\n")} onClick={() => (drawer.value = "explain")}>
            <span aria-hidden="true">{ok ? "✓" : "✕"}</span> {id} <small>{ok && all.length > 1 ? `${all.length} checks, ≤ ` : ""}{readable(residual)}</small>
            {ok ? <span class="unseen"> holds</span> : ` does not hold: ${says}`}
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
