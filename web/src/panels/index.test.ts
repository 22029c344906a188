import assert from "node:assert/strict";
import { test } from "node:test";
import { PANELS, PLACES } from ".";

test("every panel stands in the navigation once", () => {
  const ids = PANELS.map((view) => view.id);
  assert.deepEqual(ids, [...new Set(ids)]);
  assert.ok(PANELS.every((view) => PLACES.includes(view.place)));
});
