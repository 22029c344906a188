// The bytes of a panel as src/fathom/glass/panel.py writes them: for stories and tests.
import type { PanelData, SideName } from "../data/types";

export function encoded(panel: PanelData, side: SideName): ArrayBuffer {
  const entries: Record<string, unknown> = {};
  const blocks: Uint8Array[] = [];
  const described: Record<string, unknown> = {};
  let at = 0;
  for (const [name, { values, shape, kind, source, dims, setup, code }] of Object.entries(panel.series)) {
    const numbers = Float32Array.from(values, (x, i) => (side === "B" ? x * (1 + 0.3 * Math.sin(i)) : x));
    blocks.push(new Uint8Array(numbers.buffer));
    entries[name] = { dtype: "F32", shape, data_offsets: [at, (at += numbers.byteLength)] };
    described[name] = { kind, source, shape, dims, setup, code };
  }
  const header = { ...panel, series: described, preamble: "import fathom\nimport torch\n\nmodel, tokenizer = fathom.load('stories15M')\n" };
  entries.__metadata__ = { panel: JSON.stringify(header) };
  const text = new TextEncoder().encode(JSON.stringify(entries));
  const file = new Uint8Array(8 + text.length + at);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  let from = 8 + text.length;
  for (const block of blocks) {
    file.set(block, from);
    from += block.length;
  }
  return file.buffer;
}
