import assert from "node:assert/strict";
import { test } from "node:test";
import { NOTHING, type Place, read, written } from "./address";
import { axisOf, median, nearest, pathOf, ticks } from "./chart";
import { cssColour, inkOn, scaleOf, stepOf } from "./colour";
import { averaged, cellAt, every, gridOf, moved, sizeOf } from "./grid";
import { bytes, counted, percent, readable, round, signed } from "./number";
import { slice } from "./slice";
import { short, visible } from "./text";
import { series } from "../stories/made";

test("numbers have about four figures and are read in Python too", () => {
  assert.deepEqual([0.41312, 12.5, 1234.4, 3.2e-8, 0, 7, -2.5, NaN, Infinity].map(readable), ["0.4131", "12.50", "1234", "3.2e-8", "0", "7", "−2.500", "NaN", "∞"]);
  assert.deepEqual([3.5, 4, -0.25, 0.30000000000000004, 1e-5, 2e6, 0].map(round), ["3.5", "4", "−0.25", "0.3", "1e-5", "2e6", "0"]);
  assert.deepEqual([0.5, -0.5, 0].map(signed), ["+0.5000", "−0.5000", "0"]);
  assert.deepEqual([1, 0, 0.5183, 0.0171, 0.00001].map(percent), ["100%", "0%", "51.8%", "1.71%", "<0.01%"]);
  assert.deepEqual([15_191_712, 999, 1_000_000_000].map(counted), ["15.2M", "999", "1.00B"]);
  assert.deepEqual([13824, 100, 2 ** 30].map(bytes), ["13.5 KiB", "100 B", "1.00 GiB"]);
});

test("characters that cannot be seen are shown by number, and nothing else changes", () => {
  assert.equal(visible(" a\n"), "·a⏎");
  assert.equal(visible("\u202eevil\u0000\u200b"), "\\u202eevil\\x00\\u200b");
  assert.equal(visible(""), "∅");
  assert.equal(visible("<b>&lt;é😀"), "<b>&lt;é😀");
  assert.equal(short("😀😀😀", 2), "😀…");
});

test("colours: both ends and the middle", () => {
  const unit = scaleOf([], "unit");
  assert.equal(cssColour(0, unit, false), "rgb(68 1 84)");
  assert.equal(cssColour(1, unit, false), "rgb(253 231 37)");
  assert.equal(cssColour(NaN, unit, false), "transparent");
  assert.equal(inkOn(0, unit, false), "#fff");
  assert.equal(inkOn(1, unit, false), "#000");
  const about = scaleOf([-1, 3, NaN, Infinity], "signed");
  assert.deepEqual(about, { kind: "signed", most: 3 });
  assert.deepEqual([-3, 0, 3, 9].map((x) => stepOf(x, about)), [0, 128, 255, 255]);
  assert.equal(cssColour(-3, about, false), "rgb(103 0 31)", "what is below 0 is red");
  assert.equal(cssColour(3, about, true), "rgb(92 170 255)");
  assert.deepEqual(scaleOf([], "range"), { kind: "range", low: 0, high: 1 });
});

test("a slice finds its numbers in the series, and says where", () => {
  const all = series("x", [2, 3, 4], ["a", "b", "c"], "measured", "x", (a, b, c) => a * 100 + b * 10 + c);
  const table = slice(all, [1, "row", "column"]);
  assert.deepEqual([table.rows, table.columns, table.at(2, 3)], [3, 4, 123]);
  assert.deepEqual(table.indices(2, 3), [1, 2, 3]);
  const turned = slice(all, ["column", 2, "row"]);
  assert.deepEqual([turned.rows, turned.columns, turned.at(3, 1)], [4, 2, 123]);
  assert.deepEqual(turned.indices(3, 1), [1, 2, 3]);
  assert.deepEqual([...slice(all, [0, 1, "column"]).values()], [10, 11, 12, 13]);
});

test("cells on a canvas", () => {
  const grid = gridOf(6, 10, { width: 320, left: 20, top: 30, most: 28 });
  assert.deepEqual([grid.cell, grid.step, sizeOf(grid)], [28, 1, { width: 300, height: 198 }]);
  assert.deepEqual(cellAt(grid, 20, 30), { row: 0, column: 0 });
  assert.deepEqual(cellAt(grid, 299, 197), { row: 5, column: 9 });
  assert.equal(cellAt(grid, 19, 30), null);
  assert.equal(cellAt(grid, 301, 40), null);
  const slanted = gridOf(6, 10, { width: 320, left: 20, top: 30, right: 50, most: 28 }); // the last label has its room
  assert.deepEqual([slanted.cell, sizeOf(slanted).width], [25, 320]);
  assert.equal(cellAt(slanted, 271, 40), null);
  const large = gridOf(700, 900, { width: 460, left: 0, top: 0, most: 28 });
  assert.equal(large.step, 2);
  assert.ok(sizeOf(large).width <= 460);
  assert.deepEqual(cellAt(large, 459.9, 0), { row: 0, column: 898 });
  assert.equal(every(5, 12), 3);
});

test("cells that are put together are their mean, at the edge of those that are there", () => {
  assert.deepEqual([...averaged([1, 2, 3, 4, 5, 6, 7, 8, 9], 3, 3, 2)], [3, 4.5, 7.5, 9]);
  assert.deepEqual([...averaged([NaN, 2, NaN, 4], 2, 2, 2)], [3]);
});

test("arrows stay in the table", () => {
  assert.deepEqual(moved({ row: 0, column: 0 }, "ArrowUp", 3, 4), { row: 0, column: 0 });
  assert.deepEqual(moved({ row: 1, column: 3 }, "ArrowRight", 3, 4), { row: 1, column: 3 });
  assert.deepEqual(moved({ row: 1, column: 1 }, "ArrowDown", 3, 4), { row: 2, column: 1 });
  assert.deepEqual(moved({ row: 1, column: 1 }, "End", 3, 4), { row: 1, column: 3 });
  assert.equal(moved({ row: 1, column: 1 }, "a", 3, 4), null);
});

test("an address gives back what it was made of", () => {
  const place: Place = {
    model: "a & b", beside: "c=d", prompt: "x #y\n<script>", seed: 7, panel: "heads", show: "B-A",
    selection: { ...NOTHING, layer: 2, query: 0 }, own: { heads: { sort: "sink", log: true, top_p: 0.5 }, lens: { k: 3 } },
  };
  assert.deepEqual(read(`#${written(place)}`), place);
  assert.deepEqual(read("#layer=x&seed=1e999&show=C").selection, NOTHING);
  assert.deepEqual(read(""), { selection: NOTHING, own: {} });
});

test("ticks are round numbers within, and the median is the middle", () => {
  assert.deepEqual(ticks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(ticks(-3, 7, 5), [-2, 0, 2, 4, 6]);
  assert.deepEqual(ticks(0.61, 0.84, 3), [0.7, 0.8]);
  assert.deepEqual(ticks(0, 1234, 4), [0, 200, 400, 600, 800, 1000, 1200]);
  assert.deepEqual(ticks(0, 1600, 4), [0, 500, 1000, 1500]);
  assert.deepEqual([median([3, 1, 2]), median([4, 1, 2, 3]), median([]), median([NaN, 5])], [2, 2.5, undefined, 5]);
});

test("charts: axes hold what is there, lines break where nothing is", () => {
  const up = axisOf([1, 10, NaN, 0], [100, 0], true);
  assert.deepEqual(up.domain, [1, 10]);
  assert.deepEqual([up(1), up(10), up.invert(up(3)).toFixed(6)], [100, 0, "3.000000"]);
  assert.deepEqual(axisOf([3], [0, 10], false).domain, [2.5, 3.5]);
  assert.deepEqual(axisOf([2, 4], [0, 10], false, true).domain, [0, 4]);
  assert.deepEqual(axisOf([1.43, 4.07], [0, 1], false).domain.map((x) => x.toFixed(1)), ["1.4", "4.2"]);
  assert.deepEqual(axisOf([], [0, 1], false).domain, [0, 1]);
  assert.deepEqual(axisOf([3, 700], [0, 1], true).domain, [2, 1000]);
  assert.deepEqual(axisOf([3e-4, 1], [0, 1], true).ticks(5), [0.001, 0.01, 0.1, 1]);
  assert.deepEqual(axisOf([10, 90], [0, 1], true).ticks(5), [10, 20, 50, 100]);
  assert.equal(axisOf([1e-30, 1e30], [0, 1], true).ticks(5).length, 5);
  const across = axisOf([0, 3], [0, 3], false);
  assert.equal(pathOf([0, 1, 2, 3], [0, 1, NaN, 3], across, across), "M0.0,0.0L1.0,1.0M3.0,3.0");
  assert.equal(nearest([1, 5, 9], 6), 1);
  assert.equal(nearest([], 6), -1);
});
