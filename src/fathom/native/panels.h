// y = W x for one or many vectors x, with W in panels: 16 rows side by side, one a lane, so that no sum crosses lanes.
//
//   a panel = 16 rows of W as words of 4 bytes, transposed: line l holds word l of each row     (64 bytes a line)
//
//   row 0   w0 w1 w2 ...                      line 0   row0.w0  row1.w0  ...  row15.w0
//   row 1   w0 w1 w2 ...          ---->       line 1   row0.w1  row1.w1  ...  row15.w1
//   ...                                       ...
//
//   a word   fp32: 1 weight     bf16: 2 weights     int8: 4 codes + OFFSET8     int4: 8 codes + 8, as quant/integer.py
//
// Integer weights have one fp16 scale for each group of 32 along a row: scales[panel][group][row]. x is quantised to
// int8 in the same groups, so that the sum over a group is an integer sum, exact in 32 bits. A group is 8 lines of int8
// or 4 lines of int4, whose low nibbles are the first 16 weights of the group and whose high nibbles are the last 16.
//
// Weights of a k-quant (quant/k_quants.py) have two small integers of 8 bits for a group, steps[panel][group][2][row],
// and fp16 scales for a block of 256, scales[panel][block][count][row]; a group is 4 lines of low bits as in int4, then
//
//   q4_k   none                       scale0 step0 code - scale1 step1          (count 2)
//   q5_k   1 line of fifth bits       the same: bit k of a byte is of word k
//   q6_k   2 lines of upper bits      scale step0 (code - 32) for the first 16, with step1 for the last   (count 1);
//                                     a line for each 16, bits 2k and 2k + 1 of a byte are of word k
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>
#include "isa.h"

namespace fathom {

enum WeightKind : int64_t { FP32, BF16, INT8, INT4, Q4_K, Q5_K, Q6_K };

struct Adapter {  // of a layer: y changes by scale b a x
  int64_t rank;        // 0: the layer has none of this name
  const float *a, *b;  // (rank, in), (rank, out): b is transposed
  double scale;
};
struct Linear {  // filled by Panels.struct in panels.py
  WeightKind kind;
  int64_t out, in;
  const uint8_t* lines;
  const uint16_t* scales;
  const int8_t* steps;  // of k-quants
  const float* bias;    // fp32, or null
  const Adapter* adapters;  // one for each of the model, or null; for `step` alone
  bool valid() const { return kind >= FP32 && kind <= Q6_K && (kind < Q4_K || in % 256 == 0); }
  // Whether `other` is multiplied by the same words of x: all integer weights are.
  bool reads_like(const Linear& other) const { return std::min(kind, INT8) == std::min(other.kind, INT8); }
  int64_t groups() const { return (in + 31) / 32; }
  int64_t panels() const { return (out + 15) / 16; }
  int64_t words() const { return kind == FP32 ? in : kind == BF16 ? (in + 1) / 2 : groups() * 8; }  // of one x
  int64_t lines_per_panel() const {
    return kind < INT8 ? words() : groups() * (kind == INT8 ? 8 : kind == Q5_K ? 5 : kind == Q6_K ? 6 : 4);
  }
};

// Vectors x as the words that weights of a kind are multiplied with, interleaved in tiles of T vectors: a line of
// weights is loaded once for a whole tile.
struct Input {
  std::vector<uint32_t> words;  // tile by tile: [word][T]
  std::vector<float> scales;    // tile by tile: [group][T]; this and the next for integer weights only
  std::vector<int32_t> sums;    // tile by tile: [group][2][T], of the codes of the first 16 numbers and of all 32
  std::vector<float> totals;    // tile by tile: [group][T], the sum of a group as scales and codes have it, times -1

  void reserve(const Linear& w, int64_t m) {
    grow(words, w.words() * m);
    if (w.kind >= INT8) grow(scales, w.groups() * m), grow(sums, w.groups() * m * 2), grow(totals, w.groups() * m);
  }

  // Stores x (in) as vector i of the tile of T vectors that begins with vector `first`.
  void pack(const Linear& w, const float* x, int64_t first, int T, int i) {
    uint32_t* to = words.data() + w.words() * first + i;
    if (w.kind == FP32) {
      for (int64_t k = 0; k < w.in; k++) to[k * T] = as_bits(x[k]);
    } else if (w.kind == BF16) {
      for (int64_t k = 0; k < w.in / 2; k++) to[k * T] = to_bf16(x[2 * k]) | uint32_t(to_bf16(x[2 * k + 1])) << 16;
      if (w.in % 2) to[w.in / 2 * T] = to_bf16(x[w.in - 1]);
    } else {
      for (int64_t g = 0; g < w.groups(); g++)
        pack_group(x + 32 * g, std::min<int64_t>(32, w.in - 32 * g), w, first, T, i, g);
    }
  }

 private:
  template <class T>
  static void grow(std::vector<T>& v, int64_t n) {
    if (v.size() < size_t(n)) v.resize(size_t(n));
  }

  void pack_group(const float* x, int64_t n, const Linear& w, int64_t first, int T, int i, int64_t g) {
    float full[32];
    if (n < 32) {
      std::memset(full, 0, sizeof full);
      std::memcpy(full, x, size_t(n) * 4);
      x = full;
    }
    float largest = 0, poison = 0;  // poison: NaN if any x is not finite, which rounding to int8 would hide
#pragma omp simd reduction(max : largest) reduction(+ : poison)
    for (int k = 0; k < 32; k++) largest = std::max(largest, std::fabs(x[k])), poison += x[k] * 0;
    const float scale = largest / 127 + poison, inverse = largest > 1e-30f ? 127 / largest : 0;
    int8_t codes[32];
    int half = 0, sum = 0;
    int whole[32];
#pragma omp simd
    for (int k = 0; k < 32; k++) whole[k] = int(std::rint(std::max(-127.0f, x[k] * inverse)));
#pragma omp simd
    for (int k = 0; k < 32; k++) codes[k] = int8_t(whole[k]);
#pragma omp simd reduction(+ : half, sum)
    for (int k = 0; k < 16; k++) half += whole[k], sum += whole[k] + whole[k + 16];
    uint32_t* to = words.data() + w.words() * first + g * 8 * T + i;
    for (int k = 0; k < 8; k++) std::memcpy(to + k * T, codes + 4 * k, 4);
    const int64_t at = w.groups() * first + g * T;
    scales[size_t(at + i)] = scale;
    sums[size_t(2 * at + i)] = half, sums[size_t(2 * at + T + i)] = sum;
    totals[size_t(at + i)] = -scale * float(sum);
  }
};

constexpr int WIDEST = 16;  // vectors of a tile; integer weights need twice the registers, so half as many
#if defined(SHORT_SUMS)
constexpr int FLOATS_AT_ONCE = 8;  // AVX2 has 16 registers of 8 lanes
#else
constexpr int FLOATS_AT_ONCE = WIDEST;
#endif

// The width of the next tile when `left` vectors are left.
static inline int tile_at(const Linear& w, int64_t left) {
  int T = w.kind >= INT8 ? WIDEST / 2 : FLOATS_AT_ONCE;
  while (T > left) T /= 2;
  return T;
}

// y[p T + i] = the 16 rows of panel p, n lines each, times vector i of a tile of T. Each number is one chain of additions
// in the order of the lines, so that it does not depend on what is computed beside it; narrow tiles take several panels
// side by side, as one chain would wait for the latency of each addition.
template <int KIND, int T, int P>
static inline void float_tile(const uint8_t* const* panels, int64_t n, const uint32_t* x, F* y) {
  F sums[P * T];
  for (auto& sum : sums) sum = zero();
  for (int64_t l = 0; l < n; l++)
    for (int p = 0; p < P; p++) {
      const Line weights = line(panels[p] + l * 64);
      for (int i = 0; i < T; i++)
        sums[p * T + i] = KIND == FP32 ? dot_fp32(sums[p * T + i], weights, x[l * T + i])
                                       : dot_bf16(sums[p * T + i], weights, x[l * T + i]);
    }
  for (int k = 0; k < P * T; k++) y[k] = sums[k];
}

constexpr int BESIDE = 4;  // panels that narrow tiles take side by side

// The same for `count` panels.
template <int KIND, int T, int P = std::max(1, BESIDE / T)>
static inline void float_tiles(const uint8_t* const* panels, int64_t count, int64_t n, const uint32_t* x, F* y) {
  for (; count >= P; count -= P, panels += P, y += P * T) float_tile<KIND, T, P>(panels, n, x, y);
  if constexpr (P > 1) float_tiles<KIND, T, P - 1>(panels, count, n, x, y);
}

// Word `K` of a group of codes of 4, 5 or 6 bits, from its low bits (a line of four words' bytes, as in int4) and the
// line that holds its upper bits.
template <int KIND, int K>
static inline Line code(Line both, Line upper) {
  const Line four = K < 4 ? low(both) : high(both);
  if constexpr (KIND == Q5_K) return either(four, shifted_bits<K - 4, 16>(upper));
  if constexpr (KIND == Q6_K) return either(four, shifted_bits<2 * (K % 4) - 4, 48>(upper));
  return four;
}

// Adds the product of word K of such a group with x.
template <int KIND, int T, int K>
static inline void add_word(Shorts* sums, Line both, Line upper, const uint32_t* x) {
  const Line weights = code<KIND, K>(both, upper);
  for (int i = 0; i < T; i++) sums[i] = dot4(sums[i], weights, x[K * T + i]);
}

// The same of two words of a line.
template <int KIND, int T, int K>
static inline void add_two_words(Shorts* sums, const uint8_t* lines, Line upper, const uint32_t* x) {
  const Line both = line(lines + 64 * K);
  add_word<KIND, T, K>(sums, both, upper, x), add_word<KIND, T, K + 4>(sums, both, upper, x);
}

// acc with the sums that `add` adds to.
template <int T, class Add>
static inline void summed(I* acc, Add add) {
  Shorts sums[T];
  for (int i = 0; i < T; i++) sums[i] = begin(acc[i]);
  add(sums);
  for (int i = 0; i < T; i++) acc[i] = end(acc[i], sums[i]);
}

// Adds half H of a group, 16 numbers of 6 bits: from its 4 lines of low bits and its line of upper bits.
template <int KIND, int T, int H>
static inline void add_half(I* acc, const uint8_t* lines, Line upper, const uint32_t* x) {
  summed<T>(acc, [&](Shorts* sums) {
    add_word<KIND, T, 4 * H>(sums, line(lines), upper, x), add_word<KIND, T, 4 * H + 1>(sums, line(lines + 64), upper, x);
  });
  summed<T>(acc, [&](Shorts* sums) {
    add_word<KIND, T, 4 * H + 2>(sums, line(lines + 128), upper, x);
    add_word<KIND, T, 4 * H + 3>(sums, line(lines + 192), upper, x);
  });
}

// Adds a whole group of 4 or 5 bits, so that each line is loaded once.
template <int KIND, int T>
static inline void add_group(I* acc, const uint8_t* lines, const uint32_t* x) {
  const Line upper = KIND == Q5_K ? line(lines + 256) : Line();
  const auto first = [&](Shorts* sums) {
    add_two_words<KIND, T, 0>(sums, lines, upper, x), add_two_words<KIND, T, 1>(sums, lines, upper, x);
  };
  const auto second = [&](Shorts* sums) {
    add_two_words<KIND, T, 2>(sums, lines, upper, x), add_two_words<KIND, T, 3>(sums, lines, upper, x);
  };
  if (KIND == Q5_K) return summed<T>(acc, first), summed<T>(acc, second);
  summed<T>(acc, [&](Shorts* sums) { first(sums), second(sums); });
}

// What a tile needs of its vectors.
struct Vectors {
  const uint32_t* words;
  const float* scales;
  const int32_t* sums;
  const float* totals;
};

template <int KIND, int T>
static inline void int_tile(const Linear& w, int64_t p, Vectors x, F* y) {
  constexpr int LINES = KIND == INT8 ? 8 : KIND == Q5_K ? 5 : KIND == Q6_K ? 6 : 4;
  const int64_t groups = w.groups();
  const uint8_t* lines = w.lines + p * groups * LINES * 64;
  const uint16_t* weight_scales = w.scales + p * (KIND < Q4_K ? groups : groups / 8 * (KIND == Q6_K ? 1 : 2)) * 16;
  const int8_t* steps = KIND < Q4_K ? nullptr : w.steps + p * groups * 32;
  F sums[T], scale = zero(), low_scale = zero();
  for (auto& sum : sums) sum = zero();
  I acc[T];
  const auto fold = [&](F by) {
    for (int i = 0; i < T; i++) sums[i] = fma(to_float(acc[i]), mul(by, all(x.scales[i])), sums[i]);
  };
  for (int64_t g = 0; g < groups; g++, lines += LINES * 64) {
    if (KIND >= Q4_K && g % 8 == 0) {
      scale = halves(weight_scales), weight_scales += 16;
      if (KIND != Q6_K) low_scale = halves(weight_scales), weight_scales += 16;
    }
    if (KIND == INT8) {
      for (int i = 0; i < T; i++) acc[i] = all(-OFFSET8 * x.sums[T + i]);
      for (int l = 0; l < 8; l++) {
        Line weights = line(lines + l * 64);
        for (int i = 0; i < T; i++) acc[i] = dot8(acc[i], weights, x.words[l * T + i]);
      }
      fold(halves(weight_scales + g * 16));
    } else if (KIND == Q6_K) {
      for (int i = 0; i < T; i++) acc[i] = all(-32 * x.sums[i]);
      add_half<KIND, T, 0>(acc, lines, line(lines + 256), x.words);
      fold(mul(scale, bytes(steps)));
      for (int i = 0; i < T; i++) acc[i] = all(-32 * (x.sums[T + i] - x.sums[i]));
      add_half<KIND, T, 1>(acc, lines, line(lines + 320), x.words);
      fold(mul(scale, bytes(steps + 16)));
    } else {
      for (int i = 0; i < T; i++) acc[i] = all(KIND == INT4 ? -8 * x.sums[T + i] : 0);
      add_group<KIND, T>(acc, lines, x.words);
      if (KIND == INT4) {
        fold(halves(weight_scales + g * 16));
      } else {
        fold(mul(scale, bytes(steps)));
        const F least = mul(low_scale, bytes(steps + 16));
        for (int i = 0; i < T; i++) sums[i] = fma(least, all(x.totals[i]), sums[i]);
      }
    }
    if (KIND >= Q4_K) steps += 32;
    x.words += 8 * T, x.scales += T, x.sums += 2 * T, x.totals += T;
  }
  for (int i = 0; i < T; i++) y[i] = sums[i];
}

// y[q T + i] = the 16 rows of panel p + q, of `count` panels, times vector i of the tile that begins with vector `first`.
template <int T>
static inline void tile(const Linear& w, int64_t p, int64_t count, const Input& x, int64_t first, F* y) {
  const uint32_t* words = x.words.data() + w.words() * first;
  if (w.kind < INT8) {
    const int64_t n = w.lines_per_panel();
    const uint8_t* panels[BESIDE];
    for (int64_t q = 0; q < count; q++) panels[q] = w.lines + (p + q) * n * 64;
    return w.kind == FP32 ? float_tiles<FP32, T>(panels, count, n, words, y)
                          : float_tiles<BF16, T>(panels, count, n, words, y);
  }
  if constexpr (T <= WIDEST / 2) {
    const int64_t at = w.groups() * first;
    const Vectors v = {words, x.scales.data() + at, x.sums.data() + 2 * at, x.totals.data() + at};
    for (; count > 0; count--, p++, y += T) switch (w.kind) {
      case INT8: int_tile<INT8, T>(w, p, v, y); break;
      case INT4: int_tile<INT4, T>(w, p, v, y); break;
      case Q4_K: int_tile<Q4_K, T>(w, p, v, y); break;
      case Q5_K: int_tile<Q5_K, T>(w, p, v, y); break;
      case Q6_K: int_tile<Q6_K, T>(w, p, v, y); break;
      case FP32: case BF16: break;
    }
  }
}

// Multiplies panels `begin` to `end` by the m vectors of x; `emit(i, row, values, n)` gets n <= 16 rows of result i.
template <class Emit>
static void product(const Linear& w, const Input& x, int64_t m, int64_t begin, int64_t end, Emit emit) {
  // Wide tiles need no second panel beside them, and one alone stays in the cache for all of them.
  const int64_t most = m < WIDEST ? BESIDE : 1, pieces = (end - begin + most - 1) / most;
  F y[std::max(WIDEST, BESIDE * WIDEST / 2)];
  alignas(64) float values[16];
  for (int64_t piece = 0; piece < pieces; piece++) {
    const int64_t p = begin + (end - begin) * piece / pieces;
    const int64_t count = begin + (end - begin) * (piece + 1) / pieces - p;
    for (int64_t first = 0, T; first < m; first += T) {
      T = tile_at(w, m - first);
      switch (T) {
        case 16: tile<16>(w, p, count, x, first, y); break;
        case 8: tile<8>(w, p, count, x, first, y); break;
        case 4: tile<4>(w, p, count, x, first, y); break;
        case 2: tile<2>(w, p, count, x, first, y); break;
        default: tile<1>(w, p, count, x, first, y);
      }
      for (int64_t q = p; q < p + count; q++) {
        const int64_t rows = std::min<int64_t>(16, w.out - q * 16);
        for (int64_t i = 0; i < T; i++) {
          store(values, y[(q - p) * T + i]);
          if (w.bias)
            for (int64_t r = 0; r < rows; r++) values[r] += w.bias[q * 16 + r];
          emit(first + i, q * 16, values, rows);
        }
      }
    }
  }
}

}  // namespace fathom
