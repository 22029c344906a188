import assert from "node:assert/strict";
import { test } from "node:test";
import { batch, computed, effect, signal } from "./signals";

test("an effect runs again when what it read has changed, and only then", () => {
  const [a, b, which] = [signal(1), signal(10), signal(true)];
  const seen: number[] = [];
  effect(() => void seen.push(which.value ? a.value : b.value));
  a.value = 2;
  a.value = 2;
  b.value = 20;
  which.value = false;
  a.value = 3;
  b.value = 30;
  assert.deepEqual(seen, [1, 2, 20, 30]);
});

test("changes of a batch are told once, when all are made", () => {
  const [a, b] = [signal(1), signal(2)];
  const sum = computed(() => a.value + b.value);
  const seen: number[] = [];
  effect(() => void seen.push(sum.value));
  batch(() => {
    a.value = 10;
    batch(() => { b.value = 20; });
    assert.equal(sum.value, 30, "read inside, they are there");
  });
  assert.deepEqual(seen, [3, 30]);
});

test("peeking and what is read inside another effect tie nothing to the outer one", () => {
  const [a, b] = [signal(1), signal(1)];
  let [outer, inner] = [0, 0];
  effect(() => {
    outer++;
    a.peek();
    if (outer === 1) effect(() => { inner += b.value; });
  });
  a.value = 2;
  b.value = 5;
  assert.deepEqual([outer, inner], [1, 6]);
});

test("an effect that changes what another reads ends, and a failing change is told all the same", () => {
  const [a, b] = [signal(0), signal(0)];
  effect(() => { b.value = a.value * 2; });
  const seen: number[] = [];
  effect(() => void seen.push(b.value));
  a.value = 1;
  assert.throws(() => batch(() => { a.value = 2; throw new Error("no"); }), /no/);
  assert.deepEqual(seen, [0, 2, 4]);
});
