// A column for each pass: keys and values that were computed, and those that were taken from the cache.
import { columns } from "../../arithmetic/wires";
import { useWidth } from "../../parts/useWidth";

export interface ColumnsProps {
  title: string;
  made: readonly number[];
  reused: readonly number[];
  /** Tokens of the prompt, below which a line is drawn. */
  prompt: number;
  picked: number | null;
  onPick: (step: number | null) => void;
  source: string;
}

const [LEFT, TALL] = [30, 190];

export function Columns({ title, made, reused, prompt, picked, onPick, source }: ColumnsProps) {
  const { ref, width } = useWidth<HTMLDivElement>(300);
  const drawn = columns(made, reused);
  const rows = Math.max(1, ...drawn.map((one) => one.made[1]));
  const wide = Math.min(26, (width - LEFT) / Math.max(1, drawn.length));
  const high = TALL / rows;
  const total = made.reduce((a, b) => a + b, 0);
  return (
    <div ref={ref} class="columns-figure">
      <h3>{title}</h3>
      <svg width={LEFT + wide * drawn.length} height={TALL + 20} role="img" aria-label={`${title}: ${total} keys and values computed in ${drawn.length} passes`} data-kind="measured" data-source={source}>
        <text x={0} y={9}>0</text>
        <line class="prompt-line" x1={LEFT - 8} x2={LEFT + wide * drawn.length} y1={prompt * high} y2={prompt * high} />
        <text x={0} y={Math.max(20, prompt * high + 4)}>{prompt}</text>
        {drawn.map(({ step, reused: kept, made: fresh }) => (
          <g key={step} class="column" data-step={step} data-made={fresh[1] - fresh[0]} data-reused={kept[1]} data-picked={picked === step} onPointerEnter={() => onPick(step)} onClick={() => onPick(step)}>
            <rect class="whole" x={LEFT + step * wide} y={0} width={wide} height={TALL} />
            <Pair x={LEFT + step * wide + 1} width={wide - 2} from={kept[0]} to={kept[1]} high={high} name="reused" />
            <Pair x={LEFT + step * wide + 1} width={wide - 2} from={fresh[0]} to={fresh[1]} high={high} name="made" />
          </g>
        ))}
        <text x={LEFT} y={TALL + 15}>pass 1 → {drawn.length}</text>
      </svg>
      <p class="small">{total} × k and v computed</p>
    </div>
  );
}

function Pair({ x, width, from, to, high, name }: { x: number; width: number; from: number; to: number; high: number; name: string }) {
  if (to <= from) return null;
  const [y, height] = [from * high, Math.max(1.5, (to - from) * high - 0.5)];
  return (
    <>
      <rect class={`k ${name}`} x={x} y={y} width={width / 2} height={height} />
      <rect class={`v ${name}`} x={x + width / 2} y={y} width={width / 2} height={height} />
    </>
  );
}
