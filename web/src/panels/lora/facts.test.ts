import assert from "node:assert/strict";
import { test } from "node:test";
import { indexOf, layersOf, partsOf } from "./facts";

test("a number of 32 bits is found by the one that was meant", () => {
  assert.equal(indexOf(new Float32Array([0, 0.6, 1]), 0.6), 1);
  assert.equal(indexOf([0, 1, 2], 5), -1);
});

test("matrices by layer", () => {
  const all = [{ name: "blocks.0.attn.q", layer: 0, part: "attn.q", changed: [] }, { name: "embed", layer: null, part: "embed", changed: [] }];
  assert.deepEqual(layersOf(all), [0]);
  assert.deepEqual(partsOf(all, null).map((one) => one.part), ["embed"]);
});
