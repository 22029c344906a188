import assert from "node:assert/strict";
import { test } from "node:test";
import { program } from "../data/python";
import { series } from "../stories/made";
import { columnName, lasting, lossOf, partName, toggled } from "./ablation";
import { between } from "./attribution";
import { columnsOf, slice } from "./slice";

test("parts are called as one speaks of them", () => {
  assert.deepEqual(["blocks.2.attn.head.3", "blocks.0.mlp", "blocks.1", "blocks.4.attn", "blocks.4.attn.head.0.query.7.key.5", "blocks.4.attn.query.7.key.5", "?"].map(partName), [
    "layer 2 head 3", "layer 0 MLP", "layer 1", "layer 4 attention", "layer 4 head 0, token 7 from 5", "layer 4 attention, token 7 from 5", "?",
  ]);
  assert.deepEqual([".attn.head.12", ".attn", ".mlp", ""].map(columnName), ["12", "attn", "MLP", "all"]);
});

test("a part is cut once, and given back", () => {
  assert.deepEqual(toggled(["a"], "b"), ["a", "b"]);
  assert.deepEqual(toggled(["a", "b"], "a"), ["b"]);
});

test("the loss rises by the mean of what log-probabilities lose", () => {
  const change = series("found.change", [2, 4], ["layer", "query"], "computed", "x", (l, t) => (t === 3 ? NaN : -(l + 1) * t));
  const loss = lossOf(change);
  assert.deepEqual([...loss.values], [1, 2]);
  assert.match(program(loss, [1]), /print\(float\(-found\.change\[1, :-1\]\.mean\(\)\)\)/);
  const other = series("found.change", [2, 4], ["layer", "query"], "computed", "x", (l, t) => (t === 3 ? NaN : -2 * (l + 1) * t));
  assert.deepEqual([...lossOf(between(change, other)).values], [1, 2]);
});

test("how long it takes", () => {
  assert.deepEqual([0.31, 40.4, 540, 7200].map(lasting), ["0.3 s", "40 s", "9 minutes", "2.0 hours"]);
});

test("some columns of a table remember where they stand", () => {
  const all = series("x", [2, 5, 3], ["layer", "part", "query"], "computed", "x", (l, p, q) => 100 * l + 10 * p + q);
  const some = columnsOf(slice(all, ["row", "column", 2]), 3, 5);
  assert.deepEqual([some.rows, some.columns, some.at(1, 0), [...some.values()]], [2, 2, 132, [32, 42, 132, 142]]);
  assert.deepEqual(some.indices(1, 1), [1, 4, 2]);
});
