import assert from "node:assert/strict";
import { test } from "node:test";
import { PANELS, PLACES } from ".";
import { STORIES } from "../stories/panels";

test("each panel is listed once, in a place, with a story", () => {
  const ids = PANELS.map(({ id }) => id);
  assert.deepEqual(ids, [...new Set(ids)]);
  assert.deepEqual(PANELS.filter(({ place }) => !PLACES.includes(place)), []);
  assert.deepEqual(ids.filter((id) => !STORIES[id]), []);
});
