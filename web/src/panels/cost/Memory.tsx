// Memory for each use as one bar of its kinds, and the arithmetic of each.
import { useState } from "preact/hooks";
import { bytes as inBytes, grouped } from "../../arithmetic/number";
import { valueAt } from "../../data/python";
import type { Series } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Segmented } from "../../parts/Segmented";
import { Table } from "../../parts/Table";
import { told } from "../../parts/told";
import { COLOURS, type Facts, KINDS, USES } from "./facts";

export function Memory({ series, facts }: { series: Series; facts: Facts }) {
  const [use, pick] = useState(0);
  const total = (u: number): number => facts.kinds.reduce((sum, _, k) => sum + valueAt(series, [u, k]), 0);
  const most = Math.max(...facts.uses.map((_, u) => total(u)));
  const shown = facts.kinds.map((name, k) => ({ name, k })).filter(({ k }) => valueAt(series, [use, k]) > 0);
  const some = facts.kinds.map((name, k) => ({ name, k })).filter(({ k }) => facts.uses.some((_, u) => valueAt(series, [u, k]) > 0));
  return (
    <div class="memory">
      <div class="stacked" role="group" aria-label="Memory for each use">
        {facts.uses.map((name, u) => (
          <div key={name} class="use-row">
            <span>{USES[name] ?? name}</span>
            <div class="stack">
              {facts.kinds.map((kind, k) => {
                const value = valueAt(series, [u, k]);
                const about = `${USES[name] ?? name}, ${KINDS[kind] ?? kind}: ${facts.formulas[u]?.[k] ?? ""} = ${grouped(value)} bytes`;
                return value > 0 ? (
                  <button
                    key={kind} class="piece" data-kind-of={kind} data-colour={COLOURS[kind]} data-value={value} title={about} aria-label={about} style={{ width: `${(value / most) * 100}%` }}
                    {...told(series, [u, k], () => pick(u))}
                  />
                ) : null;
              })}
            </div>
            <span class="sum">{inBytes(total(u))}</span>
          </div>
        ))}
      </div>
      <p class="small key-row">{some.map(({ name }) => <span key={name}><span class="square" data-colour={COLOURS[name]} /> {KINDS[name] ?? name}</span>)}</p>
      <Segmented label="the arithmetic of" named value={use} onChange={pick} choices={facts.uses.map((name, u) => ({ value: u, label: USES[name] ?? name }))} />
      <Table
        caption={`${USES[facts.uses[use] ?? ""] ?? ""}: ${grouped(facts.batch * facts.tokens)} tokens${use === 1 ? "; weights, gradients and moments in fp32" : use > 1 ? `; rank ${facts.rank} on every matrix of the blocks` : ""}`}
        columns={[{ name: "what" }, { name: "arithmetic" }, { name: "bytes", number: true }, { name: "", number: true }]}
        rows={[
          ...shown.map(({ name, k }) => [
            KINDS[name] ?? name, <span key="f" class="worked-out">{facts.formulas[use]?.[k]}</span>,
            <Cell key="b" series={series} indices={[use, k]} format={grouped} />, inBytes(valueAt(series, [use, k])),
          ]),
          ["together", "", grouped(total(use)), inBytes(total(use))],
        ]}
      />
    </div>
  );
}
