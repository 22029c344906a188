import assert from "node:assert/strict";
import { test } from "node:test";
import { rowName, settled, windowStart } from "./lens";

test("a window of columns holds the one that is asked for", () => {
  assert.deepEqual([windowStart(200, 64, 0), windowStart(200, 64, 100), windowStart(200, 64, 199), windowStart(10, 64, 5)], [0, 68, 136, 0]);
});

test("a rank settles where it becomes 1 for good", () => {
  assert.equal(settled([40, 1, 3, 1, 1]), 3);
  assert.equal(settled([1, 1]), 0);
  assert.equal(settled([1, 2]), -1);
});

test("rows are named after the layer that was run", () => {
  assert.deepEqual([0, 1, 12].map(rowName), ["embed", "after 0", "after 11"]);
});
