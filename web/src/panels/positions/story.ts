// Fixed data of the panel, for the stories: one head of eight channels.
import { check, made, scattered, series } from "../../stories/made";

const [N, PAIRS, HEADS, T] = [32, 4, 6, 14];
const theta = Array.from({ length: PAIRS }, (_, i) => 10000 ** (-i / PAIRS));
const hand = (which: number, pair: number): [number, number] => [0.4 + scattered(which, pair, 1), scattered(which, pair, 2) - 0.3];
const at = (which: number, position: number, pair: number): [number, number] => {
  const [x, y] = hand(which, pair);
  const angle = position * (theta[pair] ?? 0);
  return [x * Math.cos(angle) - y * Math.sin(angle), y * Math.cos(angle) + x * Math.sin(angle)];
};
const part = (m: number, n: number, pair: number): number => {
  const [q, k] = [at(0, m, pair), at(1, n, pair)];
  return (q[0] * k[0] + q[1] * k[1]) / Math.sqrt(2 * PAIRS);
};
const score = (m: number, n: number): number => theta.reduce((sum, _, pair) => sum + part(m, n, pair), 0);
const distances = Array.from({ length: 120 }, (_, i) => Math.round((i * 1024) / 119));
const seen = (head: number, distance: number): number => Math.exp(-distance * (0.1 + 0.2 * scattered(head))) * (0.3 + 0.7 * scattered(head, distance));

export const story = made("positions", {
  options: { layer: 0, head: 0, query: -1, key: 0, theta: null, scaling: null, factor: 1, fault: null },
  facts: {
    kind: "rope", layer: 0, head: 0, query: 13, key: 4, positions: N, channels: 2 * PAIRS, rotated: 2 * PAIRS, context_length: 256, theta: 10000, scaling: "none",
    distances, changed: "", normed_after: false, layout: { verdict: "right", why: "the weights of all layers together are in the layout that is rotated; one alone may not be", about: "Two orders are in use.", standard_errors: 5.9 },
  },
  list: [
    series("frequency", [PAIRS], ["pair"], "computed", "the angle of (1, 0) at position 1", (i) => theta[i] ?? 0),
    series("q_at", [N, PAIRS, 2], ["position", "pair", "coordinate"], "computed", "rotate(blocks.0.attn.q), at each position", (p, i, c) => at(0, p, i)[c as 0 | 1]),
    series("k_at", [N, PAIRS, 2], ["position", "pair", "coordinate"], "computed", "rotate(blocks.0.attn.k), at each position", (p, i, c) => at(1, p, i)[c as 0 | 1]),
    series("scores", [N, N], ["m", "n"], "computed", "q at m · k at n / √c", score),
    series("parts", [N, PAIRS + 1], ["distance", "pair"], "computed", "what each pair adds to q · k / √c", (d, i) => (i < PAIRS ? part(d, 0, i) : 0)),
    series("far", [1, distances.length], ["rotation", "distance"], "computed", "q · k / √c, the query this far behind the key", (_, i) => score(distances[i] ?? 0, 0)),
    series("pattern_over_distance", [HEADS, T], ["head", "distance"], "computed", "mean attention in blocks.0.attn.pattern", seen),
    series("scores_over_distance", [HEADS, T], ["head", "distance"], "computed", "mean score in blocks.0.attn.scores", (h, d) => 4 * Math.log(seen(h, d)) + 6),
    series("agreement", [2], ["layout"], "computed", "agreement of partners in q and k, in standard errors", (i) => (i ? -5.7 : 7.1)),
    series("layout_loss", [2], ["layout"], "computed", "mean loss on the prompt, in nats", (i) => (i ? 2.37 : 0.31)),
  ],
  checks: [check("C8", "score depends on the distance", 2e-7, 1e-4), check("C8", "rotation keeps norms", 7e-8, 1e-4), check("C8", "q and k of all layers together are in the layout that is rotated (evidence against it, in standard errors)", 0, 4)],
});
