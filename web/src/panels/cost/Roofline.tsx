// What this machine allows at each number of FLOPs a byte, and where the last run of this model is below it.
import { Note } from "../../parts/Note";
import { axisOf, pathOf, ticksOf } from "../../arithmetic/chart";
import { roof } from "../../arithmetic/machine";
import { bytes as inBytes, counted, percent, readable } from "../../arithmetic/number";
import { Table } from "../../parts/Table";
import { Timed } from "../../parts/Timed";
import { useWidth } from "../../parts/useWidth";
import type { Facts } from "./facts";

const [HIGH, LEFT, RIGHT, TOP, BOTTOM] = [250, 54, 14, 14, 38];

export function Roofline({ roofline }: { roofline: NonNullable<Facts["roofline"]> }) {
  const { ref, width } = useWidth<HTMLDivElement>();
  const { read_gb_s: read, gemm_gflop_s: gemm, day, points } = roofline;
  const ridge = gemm / read;
  const found = points.map((one) => ({ ...one, intensity: one.flops / one.bytes, rate: one.flops / one.seconds / 1e9 }));
  const ends = [Math.min(0.1, ...found.map((one) => one.intensity / 2)), Math.max(ridge * 8, ...found.map((one) => one.intensity * 2))];
  const across = axisOf(ends, [LEFT, Math.max(LEFT + 1, width - RIGHT)], true);
  const [low = 0.1, high = 100] = across.domain;
  const up = axisOf([roof(low, read, gemm), gemm * 1.5, ...found.map((one) => one.rate / 1.5)], [HIGH - BOTTOM, TOP], true);
  const line = [low, ridge, high];
  return (
    <div ref={ref} class="roofline">
      <svg width={width} height={HIGH} role="img" aria-label={`At most ${readable(read)} gigabytes and ${readable(gemm)} gigaflops a second; ${found.map((one) => `${one.name}: ${readable(one.rate)} gigaflops a second`).join("; ")}`}>
        {ticksOf(up, 5).map((y) => <g key={y}><line class="grid-line" x1={LEFT} x2={width - RIGHT} y1={up(y)} y2={up(y)} /><text x={LEFT - 6} y={up(y)} text-anchor="end" dominant-baseline="middle">{readable(y)}</text></g>)}
        {ticksOf(across, Math.max(2, width / 110)).map((x) => <text key={x} x={across(x)} y={HIGH - BOTTOM + 15} text-anchor="middle">{readable(x)}</text>)}
        <text x={(LEFT + width) / 2} y={HIGH - 5} text-anchor="middle">FLOPs a byte</text>
        <text transform={`translate(12 ${HIGH / 2 - 10}) rotate(-90)`} text-anchor="middle">GFLOP/s</text>
        <path class="roof" d={pathOf(line, line.map((x) => roof(x, read, gemm)), across, up)} />
        <line class="ridge" x1={across(ridge)} x2={across(ridge)} y1={up(gemm)} y2={HIGH - BOTTOM} />
        {found.map((one, i) => (
          <g key={one.name} class="spot" data-colour={i} data-kind="measured" data-source="wall clock">
            <line x1={across(one.intensity)} x2={across(one.intensity)} y1={up(roof(one.intensity, read, gemm))} y2={up(one.rate)} />
            <circle cx={across(one.intensity)} cy={up(one.rate)} r={6} />
          </g>
        ))}
      </svg>
      <p class="small key-row">{found.map((one, i) => <span key={one.name}><span class="square" data-colour={i} /> {one.name}</span>)}<span>this machine reads {readable(read)} GB/s and multiplies {readable(gemm)} GFLOP/s, measured on {day}</span></p>
      <Table
        caption="The last run of this model, by the readable code that is shown here."
        columns={[{ name: "run" }, { name: "FLOPs", number: true }, { name: "bytes read", number: true }, { name: "FLOPs a byte", number: true }, { name: "time", number: true }, { name: "GFLOP/s", number: true }, { name: "of the limit", number: true }, { name: "limited by" }]}
        rows={found.map((one) => [
          one.name, counted(one.flops), inBytes(one.bytes), readable(one.intensity), <><Timed seconds={one.seconds} /> ms</>, readable(one.rate),
          percent(one.rate / roof(one.intensity, read, gemm)), one.intensity < ridge ? "memory" : "products",
        ])}
      />
      {found.every((one) => one.rate < 0.1 * roof(one.intensity, read, gemm)) ? <Note of="tiny" /> : null}
    </div>
  );
}
