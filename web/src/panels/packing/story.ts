// Fixed data of the panel, for the stories.
import { check, made, scattered, series } from "../../stories/made";

const LEVELS = [-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.723, 1];
const SCALE = 0.31;
const normal = (i: number): number => (scattered(i, 1) + scattered(i, 2) + scattered(i, 3) + scattered(i, 4) - 2) * 0.8;
const scaled = Array.from({ length: 64 }, (_, i) => (i === 5 ? 1 : Math.max(-1, Math.min(1, normal(i)))));
const codes = scaled.map((x) => LEVELS.reduce((best, level, i) => (Math.abs(level - x) < Math.abs((LEVELS[best] ?? 0) - x) ? i : best), 0));
const MATRICES = [0, 1, 2, 3].flatMap((layer) => ["attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down"].map((part) => `blocks.${layer}.${part}`));
const SCHEMES = [{ name: "int8", bits: 8.5, size: 32 }, { name: "int4", bits: 4.5, size: 32 }, { name: "nf4", bits: 4.127, size: 64 }, { name: "nf4-single", bits: 4.5, size: 64 }];
const SIZES = [8, 16, 32, 64, 128, 256, 512];
const RESIZED = ["int8", "int4", "nf4"];
const back = (i: number): number => SCALE * (LEVELS[codes[i] ?? 0] ?? 0);

export const story = made("packing", {
  options: { layer: 0, matrix: "attn.q", scheme: "nf4", block: null, fault: null },
  facts: {
    name: "blocks.0.attn.q", matrices: MATRICES, scheme: "nf4", schemes: SCHEMES, block: 3, blocks: 36, start: [4, 0], shape: [48, 48], bytes: 1196, bits: 4.15, error: 0.092,
    sizes: SIZES, resized: RESIZED, bins: 64, packed: "", tried: MATRICES.map((_, i) => i), tokens: 14, block_error: 0.11, usual_error: 0.091, sample: null,
  },
  list: [
    series("weight", [64], ["number"], "measured", "weight", (i) => SCALE * (scaled[i] ?? 0)),
    series("scale", [1], ["one"], "computed", "the scale of the block", () => SCALE),
    series("scaled", [64], ["number"], "computed", "weight / scale", (i) => scaled[i] ?? 0),
    series("code", [64], ["number"], "computed", "the nearest level", (i) => codes[i] ?? 0),
    series("level", [64], ["number"], "computed", "levels[code]", (i) => LEVELS[codes[i] ?? 0] ?? 0),
    series("unpacked", [64], ["number"], "computed", "level · scale", back),
    series("error", [64], ["number"], "computed", "unpacked - weight", (i) => back(i) - SCALE * (scaled[i] ?? 0)),
    series("histogram", [64], ["bin"], "computed", "how many weights / scale are in a step", (i) => Math.round(120 * Math.exp(-(((i - 31.5) / 14) ** 2)) * (0.8 + 0.4 * scattered(i)))),
    series("levels", [16], ["level"], "computed", "the levels of the format", (i) => LEVELS[i] ?? 0),
    series("used", [16], ["level"], "computed", "how many codes", (i) => Math.round(100 + 80 * scattered(i, 7))),
    series("size_error", [3, 7], ["scheme", "size"], "computed", "rms(w - w') / rms(w)", (s, i) => [0.004, 0.064, 0.071][s]! * (1 + i * [0.1, 0.13, 0.07][s]!)),
    series("size_bits", [3, 7], ["scheme", "size"], "computed", "bits a weight, scales included", (s, i) => [8, 4, 4][s]! + [16, 16, 8][s]! / SIZES[i]!),
    series("outlier", [5], ["outlier"], "measured", "weight", (i) => 1.4 - 0.1 * i),
    series("outlier_unpacked", [5], ["outlier"], "computed", "level · scale", (i) => 1.4 - 0.11 * i),
    series("outlier_place", [5, 2], ["outlier", "axis"], "computed", "row and column", (i, a) => Math.floor(48 * scattered(i, a))),
    series("outlier_times", [5], ["outlier"], "computed", "|w| / rms(w)", (i) => 7.1 - 0.5 * i),
    series("errors", [28, 4], ["matrix", "scheme"], "computed", "rms(w - w') / rms(w)", (m, s) => [0.005, 0.088, 0.092, 0.092][s]! * (0.9 + 0.2 * scattered(m, s))),
    series("loss_change", [28], ["tried"], "computed", "loss with this matrix packed - loss", (i) => 0.01 * (scattered(i, 5) - 0.3)),
    series("loss", [2], ["packed"], "computed", "loss before, and with all packed", (i) => 2.41 + 0.03 * i),
  ],
  checks: [check("C13", "packed again, the codes are the same", 0, 0), check("C13", "level × scale is the weight", 0, 0), check("C13", "bytes = packed + scales", 0, 0)],
});
