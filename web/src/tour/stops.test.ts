import assert from "node:assert/strict";
import { test } from "node:test";
import { STOPS } from "./stops";

test("ten stops of five minutes, over the panels of the tour", () => {
  assert.equal(STOPS.length, 10);
  const words = STOPS.flatMap((stop) => `${stop.text} ${stop.attempt}`.split(/\s+/)).length;
  assert.ok(words < 5 * 200, `${words} words take longer than five minutes`);
  assert.deepEqual([...new Set(STOPS.map((stop) => stop.panel))].sort(), ["ablation", "heads", "lens", "microscope", "next-token", "runs"]);
});
