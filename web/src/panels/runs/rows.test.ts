import assert from "node:assert/strict";
import { test } from "node:test";
import { program } from "../../data/python";
import { widths } from "./interval";
import { type Answer, curveOf, differences, lastStep, merged, otherTokens, type Row, rule, seriesOf, thinned } from "./rows";

const rows: Row[] = [
  { step: 1, loss: 4.5, learning_rate: 0.001, grad_norm: 0.5, tokens: 100, seconds: 1 },
  { step: 2, loss: 4.25, learning_rate: 0.002, grad_norm: 0.25, tokens: 200, seconds: 1.5 },
  { step: 2, val_loss: 4.125, seconds: 0.1 },
  { step: 2, sample: "<b>" },
  { step: 3, loss: "NaN", learning_rate: 0.003, grad_norm: "Infinity", tokens: 300, seconds: 2 },
];
const answer = (part: Partial<Answer>): Answer => ({ file: "7", step: 3, state: "training", path: "runs/a/metrics.jsonl", ours: true, rows, ...part });

test("a curve is the lines of the file", () => {
  assert.deepEqual(curveOf(rows, "loss").y, [4.5, 4.25, NaN]);
  assert.deepEqual(curveOf(rows, "val_loss"), { y: [4.125], step: [2], tokens: [200], line: [0] });
  assert.deepEqual(curveOf(rows, "grad_norm").y, [0.5, 0.25, Infinity]);
  assert.deepEqual(curveOf(rows, "speed").y, [100, 200, 200]);
});

test("new lines are added, those of a step that was known again among them", () => {
  const first = merged(undefined, answer({ rows: rows.slice(0, 2) }), 0);
  assert.ok(first);
  const next = merged(first, answer({ rows: rows.slice(1) }), lastStep(first.rows));
  assert.deepEqual(next?.rows, rows);
});

test("lines that were written anew are asked for from the beginning", () => {
  const first = merged(undefined, answer({}), 0) ?? undefined;
  assert.equal(merged(first, answer({ file: "8", rows: [] }), 3), null);
  assert.deepEqual(merged(first, answer({ file: "8", rows: rows.slice(0, 1) }), 0)?.rows, rows.slice(0, 1));
});

test("a long curve is thinned without its ends, and its points know their lines", () => {
  const long = curveOf(Array.from({ length: 5000 }, (_, i) => ({ step: i + 1, loss: i, tokens: i, seconds: i })), "loss");
  const few = thinned(long, 300);
  assert.equal(few.y.length, 300);
  assert.deepEqual([few.y[0], few.y.at(-1), few.line.at(-1)], [0, 4999, 4999]);
  const series = seriesOf("a", "runs/a/metrics.jsonl", "loss", few);
  assert.ok(few.line.every((line, i) => series.values[line] === few.y[i]));
});

test("the Python of a point reads the same file", () => {
  const text = program(seriesOf("a", "runs/a b/metrics.jsonl", "val_loss", curveOf(rows, "val_loss")), [0]);
  assert.match(text, /open\("runs\/a b\/metrics\.jsonl"\)/);
  assert.match(text, /print\(float\(\[line\['val_loss'\] for line in lines if line\.get\('val_loss'\) is not None\]\[0\]\)\)/);
});

test("two runs differ in the field that was changed", () => {
  const a = { "model.mlp": "gelu", "model.n_layer": 2, "train.max_minutes": 1, "train.betas": [0.9, 0.95] };
  const found = differences(a, { ...a, "model.mlp": "swiglu", "train.max_minutes": 2, "train.betas": [0.9, 0.95] });
  assert.deepEqual(found.what, [{ field: "model.mlp", a: "gelu", b: "swiglu" }]);
  assert.deepEqual(found.rest, [{ field: "train.max_minutes", a: "1", b: "2" }]);
  assert.match(rule(found.what), /one field, model\.mlp/);
  const { "model.mlp": _, ...none } = a;
  assert.deepEqual(differences(a, none).what, [{ field: "model.mlp", a: "gelu", b: "default" }]);
  assert.match(rule(differences(a, { ...none, "model.n_layer": 3 }).what), /2 fields/);
  assert.match(rule([]), /same way/);
  assert.ok(otherTokens([{ "model.vocab_size": 65 }, { "model.vocab_size": 512 }]) && !otherTokens([a, a]));
});

test("an interval lies about its mean on an axis that holds all of them and 0", () => {
  const place = widths([{ mean: 0.2, half: 0.05 }, { mean: -0.1, half: 0.1 }], 100);
  assert.ok(Math.abs(place(-0.2) - 0) < 1e-9 && Math.abs(place(0.25) - 100) < 1e-9);
  assert.ok(place(0) > 40 && place(0) < 50);
  assert.equal(widths([], 100)(0), 0);
});
