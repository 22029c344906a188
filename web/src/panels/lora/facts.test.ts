import assert from "node:assert/strict";
import { test } from "node:test";
import { enough, indexOf, layersOf, partsOf } from "./facts";

test("a rank is enough from which on little is missing", () => {
  assert.equal(enough([0, 1, 2, 4, 8], [4, 2.5, 2.05, 2.02, 2]), 2);
  assert.equal(enough([0, 1, 2, 4, 8], [6, 9, 2, 5, 2]), 8, "what comes back later does not count");
  assert.equal(enough([0, 1], [3, 3]), 0);
  assert.equal(enough([0, 1, 2], [2, 2.95, 3]), 1, "a loss that rises has a way too");
});

test("a number of 32 bits is found by the one that was meant", () => {
  assert.equal(indexOf(new Float32Array([0, 0.6, 1]), 0.6), 1);
  assert.equal(indexOf([0, 1, 2], 5), -1);
});

test("matrices by layer", () => {
  const all = [{ name: "blocks.0.attn.q", layer: 0, part: "attn.q", changed: [] }, { name: "embed", layer: null, part: "embed", changed: [] }];
  assert.deepEqual(layersOf(all), [0]);
  assert.deepEqual(partsOf(all, null).map((one) => one.part), ["embed"]);
});
