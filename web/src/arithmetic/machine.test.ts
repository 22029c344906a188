import assert from "node:assert/strict";
import { test } from "node:test";
import type { Series } from "../data/types";
import { byLayer, placeOf, roof, treemap } from "./machine";

test("a treemap fills its room with areas as the sizes", () => {
  const sizes = [6, 6, 4, 3, 2, 2, 1, 0];
  const boxes = treemap(sizes, 600, 400);
  assert.equal(boxes.length, 7, "nothing is drawn of size 0");
  for (const { index, x, y, width, height } of boxes) {
    assert.ok(Math.abs((width * height) / 240000 - (sizes[index] ?? 0) / 24) < 1e-9);
    assert.ok(x >= -1e-9 && y >= -1e-9 && x + width <= 600 + 1e-6 && y + height <= 400 + 1e-6);
    assert.ok(Math.max(width / height, height / width) < 3.1, "no strips");
  }
  for (const a of boxes) for (const b of boxes) {
    const apart = a.x + a.width <= b.x + 1e-6 || b.x + b.width <= a.x + 1e-6 || a.y + a.height <= b.y + 1e-6 || b.y + b.height <= a.y + 1e-6;
    assert.ok(a === b || apart);
  }
  assert.deepEqual(treemap([], 10, 10), []);
  assert.deepEqual(treemap([0], 10, 10), []);
  assert.deepEqual(treemap([5], 10, 8), [{ index: 0, x: 0, y: 0, width: 10, height: 8 }]);
});

test("below the ridge memory is the limit, above it arithmetic", () => {
  assert.equal(roof(2, 10, 100), 20);
  assert.equal(roof(10, 10, 100), 100);
  assert.equal(roof(50, 10, 100), 100);
});

test("matrices by layer", () => {
  assert.deepEqual(placeOf("blocks.12.mlp.experts.3.up"), { layer: 12, matrix: "mlp.experts.3.up" });
  const names = ["blocks.0.attn.q", "blocks.0.mlp.up", "blocks.1.attn.q"];
  const series = { values: Float32Array.of(1, 3), name: "x", shape: [2], dims: ["tried"] } as unknown as Series;
  const table = byLayer(series, names, [0, 2]);
  assert.deepEqual([table.layers, table.matrices], [[0, 1], ["attn.q"]]);
  assert.deepEqual([...table.values()], [1, 3]);
  assert.deepEqual(table.indices(1, 0), [1]);
  const whole = byLayer({ ...series, values: Float32Array.of(1, 2, 3) }, names, [0, 1, 2]);
  assert.ok(Number.isNaN(whole.at(1, 1)) && whole.at(1, 0) === 3);
});
