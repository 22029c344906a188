import assert from "node:assert/strict";
import { test } from "node:test";
import { PANELS } from ".";

test("every panel is in the navigation once", () => {
  const ids = PANELS.map(({ id }) => id);
  assert.deepEqual(ids, [...new Set(ids)]);
});
