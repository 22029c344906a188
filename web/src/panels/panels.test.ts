import assert from "node:assert/strict";
import { test } from "node:test";
import { PANELS } from ".";
import { STORIES } from "../stories/panels";

test("each panel is listed once, with a story", () => {
  const ids = PANELS.map(({ id }) => id);
  assert.deepEqual(ids, [...new Set(ids)]);
  assert.deepEqual(ids.filter((id) => !STORIES[id]), []);
});
