import assert from "node:assert/strict";
import { test } from "node:test";
import { program } from "../data/python";
import { series } from "../stories/made";
import { between, byKind, columnOf, largest, picked, sums, upTo } from "./attribution";

const PARTS = ["embed", "blocks.0.attn.head.0", "blocks.0.attn.head.1", "blocks.0.mlp", "blocks.1.mlp", "final_norm.bias"].map((name) => {
  const layer = /blocks\.(\d+)/.exec(name);
  return { name, kind: name === "embed" ? "embed" : name.endsWith("bias") ? "bias" : name.includes("head") ? "head" : "mlp", layer: layer ? Number(layer[1]) : null, head: null };
});
const table = series("table", [6, 4, 3], ["part", "query", "token"], "computed", "x", (p, q, n) => 100 * p + 10 * q + n);

test("a logit's parts at one query, and the difference of two tokens, with their Python", () => {
  const one = picked(table, 2, 1, null);
  assert.deepEqual([...one.values], [21, 121, 221, 321, 421, 521]);
  assert.equal(one.code, "table[{0}, 2, 1]");
  const both = picked(table, 2, 1, 0);
  assert.deepEqual([...both.values], [1, 1, 1, 1, 1, 1]);
  assert.match(program(both, [3]), /print\(float\(table\[3, 2, 1\] - table\[3, 2, 0\]\)\)/);
  assert.deepEqual(picked(series("logit", [4, 3], ["query", "token"], "measured", "logits", (q, n) => q + n), 3, 2, null).shape, []);
});

test("a token's column is found by its id", () => {
  const ids = series("tokens", [4, 3], ["query", "token"], "computed", "x", (q, n) => 7 * q + n);
  assert.deepEqual([columnOf(ids, 2, 16), columnOf(ids, 2, 3)], [2, -1]);
});

test("sums of parts by kind, and up to each block", () => {
  const one = picked(table, 0, 0, null);
  const kinds = byKind(PARTS);
  assert.deepEqual(kinds.map(([kind]) => kind), ["embed", "head", "mlp", "bias"]);
  const total = sums(one, kinds.map(([, group]) => group));
  assert.deepEqual([...total.values], [0, 300, 700, 500]);
  assert.match(program(total, [1]), /sum\(float\(table\[i, 0, 0\]\) for i in \[\[0\],\[1,2\],\[3,4\],\[5\]\]\[1\]\)/);
  assert.deepEqual(upTo(PARTS, 2), [[0], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]);
  const difference = sums(between(one, picked(table, 0, 1, null)), [[0, 1]]);
  assert.deepEqual([...difference.values], [2]);
  assert.match(program(difference, [0]), /print\(b - a\)/);
});

test("the largest parts are those with the largest size", () => {
  assert.deepEqual(largest([1, -5, 0.5, 3], 2), { shown: [1, 3], rest: [0, 2] });
});
