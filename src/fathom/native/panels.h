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
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>
#include "isa.h"

namespace fathom {

enum WeightKind : int64_t { FP32, BF16, INT8, INT4 };

struct Linear {  // filled by Panels.struct in panels.py
  WeightKind kind;
  int64_t out, in;
  const uint8_t* lines;
  const uint16_t* scales;
  const float* bias;  // fp32, or null
  bool valid() const { return kind >= FP32 && kind <= INT4; }
  int64_t groups() const { return (in + 31) / 32; }
  int64_t panels() const { return (out + 15) / 16; }
  int64_t words() const { return kind == FP32 ? in : kind == BF16 ? (in + 1) / 2 : groups() * 8; }  // of one x
  int64_t lines_per_panel() const { return kind == INT4 ? groups() * 4 : words(); }
};

// Vectors x as the words that weights of a kind are multiplied with, interleaved in tiles of T vectors: a line of
// weights is loaded once for a whole tile.
struct Input {
  std::vector<uint32_t> words;   // tile by tile: [word][T]
  std::vector<float> scales;     // tile by tile: [group][T]; this and the next for integer weights only
  std::vector<int32_t> offsets;  // tile by tile: [group][T], what cancels the offset of the weights in a group's sum

  void reserve(const Linear& w, int64_t m) {
    grow(words, w.words() * m);
    if (w.kind >= INT8) grow(scales, w.groups() * m), grow(offsets, w.groups() * m);
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
      const int offset = w.kind == INT8 ? OFFSET8 : 8;
      for (int64_t g = 0; g < w.groups(); g++)
        pack_group(x + 32 * g, std::min<int64_t>(32, w.in - 32 * g), w, first, T, i, g, offset);
    }
  }

 private:
  template <class T>
  static void grow(std::vector<T>& v, int64_t n) {
    if (v.size() < size_t(n)) v.resize(size_t(n));
  }

  void pack_group(const float* x, int64_t n, const Linear& w, int64_t first, int T, int i, int64_t g, int offset) {
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
    int sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int k = 0; k < 32; k++) {
      int q = int(std::rint(std::max(-127.0f, x[k] * inverse)));
      codes[k] = int8_t(q);
      sum += q;
    }
    uint32_t* to = words.data() + w.words() * first + g * 8 * T + i;
    for (int k = 0; k < 8; k++) std::memcpy(to + k * T, codes + 4 * k, 4);
    scales[size_t(w.groups() * first + g * T + i)] = scale;
    offsets[size_t(w.groups() * first + g * T + i)] = -offset * sum;
  }
};

constexpr int WIDEST = 16;  // vectors of a tile; integer weights need twice the registers, so half as many

// The width of the next tile when `left` vectors are left.
static inline int tile_at(const Linear& w, int64_t left) {
  int T = w.kind >= INT8 ? WIDEST / 2 : WIDEST;
  while (T > left) T /= 2;
  return T;
}

// y[i] = the 16 rows of panel p times vector i of a tile of T. Narrow tiles keep several partial sums for each vector,
// as one chain of additions would wait for the latency of each.
template <int KIND, int T>
static inline void float_tile(const Linear& w, int64_t p, const uint32_t* x, F* y) {
  constexpr int S = T == 1 ? 4 : T == 2 ? 2 : 1;
  const int64_t n = w.lines_per_panel();
  const uint8_t* lines = w.lines + p * n * 64;
  F sums[S * T];
  for (auto& sum : sums) sum = zero();
  auto step = [&](int64_t l, int s) {
    Line weights = line(lines + l * 64);
    for (int i = 0; i < T; i++)
      sums[s * T + i] = KIND == FP32 ? dot_fp32(sums[s * T + i], weights, x[l * T + i])
                                     : dot_bf16(sums[s * T + i], weights, x[l * T + i]);
  };
  int64_t l = 0;
  for (; l + S <= n; l += S)
    for (int s = 0; s < S; s++) step(l + s, s);
  for (; l < n; l++) step(l, 0);
  for (int i = 0; i < T; i++) {
    y[i] = sums[i];
    for (int s = 1; s < S; s++) y[i] = add(y[i], sums[s * T + i]);
  }
}

template <int KIND, int T>
static inline void int_tile(const Linear& w, int64_t p, const uint32_t* x, const float* scales, const int32_t* offsets,
                            F* y) {
  const int64_t groups = w.groups();
  const uint8_t* lines = w.lines + p * w.lines_per_panel() * 64;
  const uint16_t* weight_scales = w.scales + p * groups * 16;
  F sums[T];
  for (auto& sum : sums) sum = zero();
  for (int64_t g = 0; g < groups; g++, x += 8 * T) {
    I acc[T];
    for (int i = 0; i < T; i++) acc[i] = all(offsets[g * T + i]);
    if (KIND == INT8) {
      for (int l = 0; l < 8; l++, lines += 64) {
        Line weights = line(lines);
        for (int i = 0; i < T; i++) acc[i] = dot8(acc[i], weights, x[l * T + i]);
      }
    } else {
      for (int l = 0; l < 4; l++, lines += 64) {
        Line both = line(lines), first = low(both), second = high(both);
        for (int i = 0; i < T; i++) acc[i] = dot4(acc[i], first, x[l * T + i]);
        for (int i = 0; i < T; i++) acc[i] = dot4(acc[i], second, x[(4 + l) * T + i]);
      }
    }
    F scale = halves(weight_scales + g * 16);
    for (int i = 0; i < T; i++) sums[i] = fma(to_float(acc[i]), mul(scale, all(scales[g * T + i])), sums[i]);
  }
  for (int i = 0; i < T; i++) y[i] = sums[i];
}

template <int T>
static inline void tile(const Linear& w, int64_t p, const Input& x, int64_t first, F* y) {
  const uint32_t* words = x.words.data() + w.words() * first;
  if (w.kind == FP32) return float_tile<FP32, T>(w, p, words, y);
  if (w.kind == BF16) return float_tile<BF16, T>(w, p, words, y);
  if constexpr (T <= WIDEST / 2) {
    const float* scales = x.scales.data() + w.groups() * first;
    const int32_t* offsets = x.offsets.data() + w.groups() * first;
    if (w.kind == INT8) return int_tile<INT8, T>(w, p, words, scales, offsets, y);
    if (w.kind == INT4) return int_tile<INT4, T>(w, p, words, scales, offsets, y);
  }
}

// Multiplies panels `begin` to `end` by the m vectors of x; `emit(i, row, values, n)` gets n <= 16 rows of result i.
template <class Emit>
static void product(const Linear& w, const Input& x, int64_t m, int64_t begin, int64_t end, Emit emit) {
  F y[WIDEST];
  alignas(64) float values[16];
  for (int64_t p = begin; p < end; p++) {
    const int64_t rows = std::min<int64_t>(16, w.out - p * 16);
    for (int64_t first = 0, T; first < m; first += T) {
      T = tile_at(w, m - first);
      switch (T) {
        case 16: tile<16>(w, p, x, first, y); break;
        case 8: tile<8>(w, p, x, first, y); break;
        case 4: tile<4>(w, p, x, first, y); break;
        case 2: tile<2>(w, p, x, first, y); break;
        default: tile<1>(w, p, x, first, y);
      }
      for (int64_t i = 0; i < T; i++) {
        store(values, y[i]);
        if (w.bias)
          for (int64_t r = 0; r < rows; r++) values[r] += w.bias[p * 16 + r];
        emit(first + i, p * 16, values, rows);
      }
    }
  }
}

}  // namespace fathom
