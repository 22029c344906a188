import assert from "node:assert/strict";
import { test } from "node:test";
import { interleaved, pairOf, places, sector, slid, spread, turnedBy, turnLength } from "./dials";
import { grouped } from "./number";
import { columns, parting, product, wires } from "./wires";

test("dials are spread evenly over the pairs", () => {
  assert.deepEqual(spread(4, 12), [0, 1, 2, 3]);
  assert.deepEqual(spread(64, 4), [0, 21, 42, 63]);
});

test("a sector goes anticlockwise, in SVG's coordinates", () => {
  assert.equal(sector(10, 0, Math.PI / 2), "M0,0L10.00,0.00A10,10 0 0 0 0.00,-10.00Z");
  assert.ok(sector(10, 0, 4).includes("0 1 0"), "more than half a turn");
  assert.ok(sector(10, 0, 7).endsWith("Z") && !sector(10, 0, 7).includes("L"), "a whole disc");
});

test("turning a hand by an angle is so many positions, the shorter way round", () => {
  assert.ok(Math.abs(turnedBy(0.1, 0.3, 0.1) - 2) < 1e-9);
  assert.ok(Math.abs(turnedBy(Math.PI - 0.1, -Math.PI + 0.1, 0.1) - 2) < 1e-9);
  assert.ok(Math.abs(turnedBy(-Math.PI + 0.1, Math.PI - 0.1, 0.1) + 2) < 1e-9);
  assert.equal(turnedBy(0, 1, 0), 0);
  assert.ok(Math.abs(turnLength(0.1) - 62.83) < 0.01);
  assert.equal(turnLength(0), Infinity);
});

test("the two layouts: a permutation of channels, partners side by side in one of them", () => {
  assert.deepEqual(interleaved(8, 8), [0, 2, 4, 6, 1, 3, 5, 7]);
  assert.deepEqual(interleaved(6, 4), [0, 2, 1, 3, 4, 5]);
  assert.deepEqual([0, 1, 2, 3, 4, 5].map((c) => pairOf(c, 4)), [0, 1, 0, 1, -1, -1]);
});

test("a key never stands after its query, and sliding keeps them apart", () => {
  assert.deepEqual(places(40, 50, 32), { m: 31, n: 31 });
  assert.deepEqual(places(7.4, -2, 32), { m: 7, n: 0 });
  assert.deepEqual(slid(9, 4, 20, 32), { m: 25, n: 20 });
  assert.deepEqual(slid(9, 4, 31, 32), { m: 31, n: 26 });
});

test("wires lead to the group, and each group knows how many", () => {
  const drawn = wires([0, 0, 1, 1], 2, 80, 0, 40);
  assert.deepEqual(drawn.kvHeads, [{ x: 20, fanIn: 2 }, { x: 60, fanIn: 2 }]);
  assert.deepEqual(drawn.heads.map((one) => one.x), [10, 30, 50, 70]);
  assert.equal(drawn.paths[3], "M70.0,0C70.0,20 60.0,20 60.0,40");
});

test("columns: what is taken over, then what is made", () => {
  assert.deepEqual(columns([5, 1], [0, 5]), [
    { step: 0, reused: [0, 0], made: [0, 5] },
    { step: 1, reused: [0, 5], made: [5, 6] },
  ]);
  assert.equal(parting([1, 2, 3], [1, 5, 3]), 1);
  assert.equal(parting([1, 2], [1, 2, 3]), -1);
});

test("bytes as a product", () => {
  assert.equal(grouped(1234567), "1,234,567");
  assert.equal(grouped(12), "12");
  assert.equal(product([2, 5, 4, 8, 40, 4]), "2 · 5 · 4 · 8 · 40 · 4 = 51,200");
});
