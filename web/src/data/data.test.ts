import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { encoded } from "../stories/encoded";
import { check, made, series, SIDES } from "../stories/made";
import { changed, embedded } from "./embedded";
import { difference, readPanel } from "./panel";
import { nameOf, program } from "./python";
import { readTensors } from "./safetensors";
import type { DocumentData } from "./types";

function file(header: Record<string, unknown>, data: Uint8Array): ArrayBuffer {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes.buffer;
}

const tapped = {
  ...series("pattern", [2, 2, 3, 3], ["layer", "head", "query", "key"], "measured", "blocks.*.attn.pattern", (l, h, q, k) => l + h / 10 + q / 100 + k / 1000),
  code: "seen[f'blocks.{0}.attn.pattern'][0, {1}, {2}, {3}]",
  setup: ["with fathom.look(model, 'blocks.{0}.attn.pattern') as seen:", "    model(ids)"],
  preamble: "import fathom\n",
};
const small = made("heads", { list: [tapped], checks: [check("C1", "rows sum to 1", 0, 1e-6)], options: { layer: 0, query: -1, sort: "sink" } });

test("each type of tensor is read, wherever it begins", () => {
  const data = new Uint8Array([255, 0, 0, 128, 63, 254, 255, 255, 255, 5, 0, 0, 0, 0, 0, 0, 0]);
  const { tensors } = readTensors(file({
    u: { dtype: "U8", shape: [1], data_offsets: [0, 1] }, f: { dtype: "F32", shape: [], data_offsets: [1, 5] },
    i: { dtype: "I32", shape: [1], data_offsets: [5, 9] }, l: { dtype: "I64", shape: [1], data_offsets: [9, 17] },
  }, data));
  assert.deepEqual(Object.values(tensors).map(({ values }) => values[0]), [255, 1, -2, 5]);
  assert.throws(() => readTensors(file({ x: { dtype: "F16", shape: [1], data_offsets: [0, 2] } }, data)), /F16; expected F32/);
});

test("a panel comes back as it was written", () => {
  const panel = readPanel(encoded({ ...small, checks: [{ ...check("C1", "x", NaN, 1), residual: "NaN" as unknown as number }] }, "A"), "A");
  assert.deepEqual(panel.series.pattern?.values, tapped.values);
  assert.deepEqual(panel.series.pattern?.dims, tapped.dims);
  assert.ok(Number.isNaN(panel.checks[0]?.residual));
});

test("B − A of what has one shape; what has not says so", () => {
  const other = made("heads", { list: [{ ...tapped, values: tapped.values.map((x) => x * 2), side: "B" }], checks: small.checks });
  const found = difference(small, other);
  assert.deepEqual(found.series.pattern?.values, tapped.values);
  assert.equal(found.series.pattern?.side, "B-A");
  assert.equal(found.checks.length, 2);
  const wider = made("heads", { list: [series("pattern", [2, 2], ["a", "b"], "measured", "x", () => 0)] });
  assert.match(difference(small, wider).absent ?? "", /2 × 2 × 3 × 3, B of 2 × 2/);
  assert.match(difference({ ...small, absent: "A bigram has no attention." }, other).absent ?? "", /bigram/);
});

test("a number is named by its tap, and its program is Python", () => {
  assert.equal(nameOf(tapped, [1, 0, 2, 1]), "blocks.1.attn.pattern[0, 0, 2, 1]");
  assert.equal(nameOf({ ...tapped, code: "shown[order][{0}]" }, [3]), "pattern[3]");
  assert.equal(program(tapped, [1, 0, 2, 1]), [
    "import fathom", "", "with fathom.look(model, 'blocks.1.attn.pattern') as seen:", "    model(ids)",
    "print(float(seen[f'blocks.1.attn.pattern'][0, 0, 2, 1]))", "",
  ].join("\n"));
  const both = difference(small, made("heads", { list: [{ ...tapped, preamble: "import fathom as b" }] })).series.pattern;
  assert.ok(both);
  assert.match(program(both, [0, 0, 0, 0]), /^# A\nimport fathom\n[^]*a = float\(seen[^]*# B\nimport fathom as b\n[^]*b = float[^]*print\(b - a\)\n$/);
});

test("a file names a view by what differs from the first one", () => {
  const usual = { layer: 0, query: -1, sort: "sink" };
  assert.equal(changed({ layer: 2, head: 1, sort: "sink" }, usual, 14), "head=1&layer=2");
  assert.equal(changed({ query: 13, layer: null }, usual, 14), "");
  assert.equal(changed({ log: true }, { log: false }, 14), "log=true");
});

test("a file gives the views that it holds and explains those that it does not", async () => {
  const page: DocumentData = { live: false, sides: { A: SIDES.A }, panels: { "A/heads?": "d0", "A/heads?layer=1": "d1" } };
  const packed = gzipSync(new Uint8Array(encoded(small, "A"))).toString("base64");
  const source = embedded(page, (id) => (id === "d0" || id === "d1" ? packed : null));
  assert.deepEqual(readPanel(await source.panel("", "A", "heads", { query: 13 }), "A").series.pattern?.values, tapped.values);
  assert.ok(await source.panel("", "A", "heads", { layer: 1 }));
  await assert.rejects(source.panel("", "A", "heads", { layer: 5 }), /lacks this view.*fathom serve/);
  await assert.rejects(source.panel("", "A", "lens", {}), /lacks this view.*fathom serve/);
  await assert.rejects(source.run({ model: "", beside: null, prompt: "", seed: 0 }), /another prompt needs the model.*fathom serve/);
});
