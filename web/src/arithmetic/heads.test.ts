import assert from "node:assert/strict";
import { test } from "node:test";
import { brightness, byLayer, inOrder, nextPlace, ordered, pixels, placeAt, signedPixels } from "./heads";
import { boldest, leading, products, sumOf, termOf } from "./terms";
import { series } from "../stories/made";

test("heads are sorted by a statistic, and those without a number come last", () => {
  assert.deepEqual(ordered([0.2, NaN, 0.9, 0.2], false), [2, 0, 3, 1]);
  assert.deepEqual(ordered([0.2, NaN, 0.9, 0.2], true), [0, 3, 2, 1]);
});

test("a sheet has every head once, within its width, and a point finds it again", () => {
  for (const [layers, heads, group] of [[2, 3, 1], [5, 8, 2], [32, 32, 8], [1, 1, 1]] as const)
    for (const width of [320, 640]) {
      const sheets = [byLayer(layers, heads, width, group), inOrder(Array.from({ length: layers * heads }, (_, i) => i), heads, width)];
      for (const sheet of sheets) {
        assert.equal(new Set(sheet.places.map(({ layer, head }) => layer * heads + head)).size, layers * heads);
        assert.ok(sheet.width <= width || sheet.side === 6, `${sheet.width} of ${width}`);
        sheet.places.forEach(({ left, top }, i) => assert.equal(placeAt(sheet, left + 1, top + 1), i));
        assert.ok(sheet.places.every(({ left, top }) => left + sheet.side <= sheet.width && top + sheet.side <= sheet.height));
      }
    }
});

test("heads that share keys and values stand closer together than others", () => {
  const { places, side } = byLayer(1, 4, 600, 2);
  const gaps = places.slice(1).map(({ left }, i) => left - (places[i]?.left ?? 0) - side);
  assert.ok((gaps[0] ?? 0) < (gaps[1] ?? 0) && gaps[0] === gaps[2]);
});

test("arrows move over a sheet and stay on it", () => {
  const sheet = byLayer(2, 3, 600);
  assert.deepEqual(["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "x"].map((key) => nextPlace(sheet, 1, key)), [2, 0, 4, 1, -1]);
  assert.deepEqual([nextPlace(sheet, -1, "ArrowDown"), nextPlace(sheet, 5, "ArrowRight"), nextPlace(sheet, 0, "ArrowLeft")], [0, 5, 0]);
});

test("a byte is a share, and small shares are told apart on a logarithmic scale", () => {
  assert.deepEqual([0, 255].map((byte) => brightness(byte, false)), [0, 1]);
  assert.ok(Math.abs(brightness(128, false) - 0.252) < 1e-3);
  assert.deepEqual([brightness(255, true), brightness(0, true)], [1, 0]);
  assert.ok(brightness(8, true) - brightness(4, true) > 0.1);
  assert.equal(pixels(false, false)[0], 0xff540144); // viridis at 0
  assert.notEqual(pixels(true, false)[8], pixels(false, false)[8]);
  assert.equal(signedPixels([0, 100, -100], 1, 2, false).length, 2);
});

test("products sum to the number, and what is not listed is summed too", () => {
  const [a, b] = [series("a", [5], ["i"], "measured", "a", (i = 0) => i - 2), series("b", [5], ["i"], "measured", "b", (i = 0) => 2 * i)];
  const terms = products(5, (i) => ({ series: a, indices: [i] }), (i) => ({ series: b, indices: [i] }));
  assert.deepEqual(terms.map(({ value }) => value), [-0, -2, 0, 6, 16]);
  const { shown, rest, left } = leading(terms, 2);
  assert.deepEqual([shown.map(({ value }) => value), rest, left, sumOf(terms)], [[16, 6], -2, 3, 20]);
  assert.deepEqual([leading(terms, 4).left, termOf([{ series: a, indices: [4] }]).value], [0, 2]);
});

test("the boldest number is finite and of its own row", () => {
  const one = series("a", [2, 3], ["row", "column"], "measured", "a", (r = 0, c = 0) => (r ? -c : c === 1 ? -Infinity : 9));
  assert.deepEqual([boldest(one), boldest(one, 3, 3), boldest(undefined)], [0, 5, 0]);
});
