// The multiply-adds of one number: each product with its factors, and their sum beside the number itself.
import { readable, signed } from "../../arithmetic/number";
import { leading, sumOf } from "../../arithmetic/terms";
import { nameOf, valueAt } from "../../data/python";
import type { Series } from "../../data/types";
import { Cell } from "../../parts/Cell";
import type { Made } from "./stages";

const MOST = 8;

export function Terms({ series, indices, made }: { series: Series; indices: number[]; made: Made | null }) {
  const value = valueAt(series, indices);
  if (!made) return <p class="small">Point at a number to see it; <code>{nameOf(series, indices)}</code> = <Cell series={series} indices={indices} />.</p>;
  if (made.from)
    return (
      <section class="box terms" aria-label="Where it comes from">
        <p><code>{nameOf(series, indices)}</code> = <Cell series={series} indices={indices} /></p>
        <p>{made.from.map((one, i) => (typeof one === "string" ? one : <Cell key={i} series={one.series} indices={one.indices} />))}.</p>
      </section>
    );
  const { shown, rest, left } = leading(made.terms, MOST);
  return (
    <section class="box terms" aria-label="Multiply-adds" data-terms={made.terms.length} data-sum={sumOf(made.terms)} data-value={value}>
      <p>
        <strong>{made.formula}</strong>: <code>{nameOf(series, indices)}</code> = <Cell series={series} indices={indices} />, {made.terms.length === 1 ? "one number" : `a sum of ${made.terms.length} ${made.terms.some(({ factors }) => factors.length > 1) ? "products" : "numbers"}`}.
      </p>
      <ol>
        {shown.map(({ factors, value: product }, i) => (
          <li key={i}>
            <span class="term-factors">
              {factors.map(({ series: one, indices: at }, n) => <>{n ? " × " : ""}<Cell series={one} indices={at} /></>)}
            </span>
            <span class="term-bar" data-negative={product < 0} style={{ width: `${share(product, shown[0]?.value ?? 1)}%` }} />
            <span class="term-value">{signed(product)}</span>
          </li>
        ))}
        {left ? <li class="term-rest"><span class="term-factors">{left} smaller ones together</span><span class="term-bar" data-negative={rest < 0} style={{ width: `${share(rest, shown[0]?.value ?? 1)}%` }} /><span class="term-value">{signed(rest)}</span></li> : null}
        <li class="term-sum"><span class="term-factors">sum</span><span /><span class="term-value">{readable(sumOf(made.terms))}</span></li>
      </ol>
    </section>
  );
}

function share(value: number, most: number): number {
  return most ? Math.min(100, (Math.abs(value) / Math.abs(most)) * 100) : 0;
}
