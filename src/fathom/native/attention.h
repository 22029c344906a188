// softmax(scale q k) v for the rows that share one head of keys and values, read in place from the cache. A row is
// one head of one query.
//
//   keys, values   (seen, c), fp32 or bf16, contiguous            each is read once for all rows
//
// For scores, sixteen rows form a panel (panels.h), which is multiplied by each key: no sum crosses lanes.
//
//   line l   word l of row 0, of row 1, ... of row 15             multiplied at once with word l of a key
//
// Fewer than four rows would leave most lanes empty, so there the lanes are channels of one row, as always for values.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>
#include "activations.h"
#include "isa.h"

namespace fathom {

static inline F load_row(const float* x) { return load(x); }
static inline F load_row(const uint16_t* x) { return load_bf16(x); }
static inline float number(float x) { return x; }
static inline float number(uint16_t x) { return from_bf16(x); }
static inline void put(float* to, float x) { *to = x; }
static inline void put(uint16_t* to, float x) { *to = to_bf16(x); }
static inline F dot(F acc, Line w, uint32_t x, const float*) { return dot_fp32(acc, w, x); }
static inline F dot(F acc, Line w, uint32_t x, const uint16_t*) { return dot_bf16(acc, w, x); }

// Word l of a row: one fp32 or two bf16. Queries are given in fp32 and converted to the format of the keys.
static inline uint32_t word_of(const float* q, int64_t l, const float*) { return as_bits(q[l]); }
static inline uint32_t word_of(const float* q, int64_t l, const uint16_t*) {
  return to_bf16(q[2 * l]) | uint32_t(to_bf16(q[2 * l + 1])) << 16;
}

// Scores of K keys for a panel of `heads` <= 16 rows.
template <class T, int K>
static inline void score_keys(const T* keys, int64_t c, int64_t words, const uint32_t* lines, float scale,
                              int64_t heads, int64_t seen, float* scores) {
  F sums[K];
  for (auto& sum : sums) sum = zero();
  for (int64_t l = 0; l < words; l++) {
    Line q = line(lines + 16 * l);
    for (int j = 0; j < K; j++) {
      uint32_t word;
      std::memcpy(&word, (const char*)(keys + j * c) + 4 * l, 4);
      sums[j] = dot(sums[j], q, word, keys);
    }
  }
  for (int j = 0; j < K; j++) {
    float values[16];
    store(values, mul(sums[j], all(scale)));
    for (int64_t a = 0; a < heads; a++) scores[a * seen + j] = values[a];
  }
}

// Scores of all keys for `heads` <= 16 rows, which are packed into `lines` first.
template <class T>
static void score_panel(const T* keys, int64_t seen, int64_t c, const float* q, int64_t heads, float scale,
                        std::vector<uint32_t>& lines, float* scores) {
  const int64_t words = c * int64_t(sizeof(T)) / 4;
  lines.assign(size_t(16 * words), 0);
  for (int64_t a = 0; a < heads; a++)
    for (int64_t l = 0; l < words; l++) lines[size_t(16 * l + a)] = word_of(q + a * c, l, keys);
  int64_t s = 0;
  for (; s + 8 <= seen; s += 8) score_keys<T, 8>(keys + s * c, c, words, lines.data(), scale, heads, seen, scores + s);
  for (; s < seen; s++) score_keys<T, 1>(keys + s * c, c, words, lines.data(), scale, heads, seen, scores + s);
}

// q . k. C: the width if the compiler may know it, else 0.
template <class T, int C>
static inline float inner(const float* q, const T* key, int64_t c) {
  float rest = 0;
  if constexpr (C > 0) {
    F sums = zero();
    for (int k = 0; k < C; k += 16) sums = fma(load(q + k), load_row(key + k), sums);
    return sum(sums);
  }
  for (int64_t k = 0; k < c; k++) rest += q[k] * number(key[k]);
  return rest;
}

static void softmax(float* x, int64_t n) {
  float largest = x[0];
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; i++) largest = std::max(largest, x[i]);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] = fast_exp(x[i] - largest);
  const float share = 1 / total(x, n);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] *= share;
}

// z[a] += sum over s of p[a][s] values[s] for H rows a; p (rows, seen), z (rows, C)
template <class T, int C, int H>
static inline void mix(const float* p, int64_t seen, const T* values, int64_t count, float* z) {
  constexpr int V = C / 16;
  F sums[H * V];
  for (int i = 0; i < H * V; i++) sums[i] = load(z + 16 * i);
  for (int64_t s = 0; s < count; s++, values += C) {
    F row[V];
    for (int k = 0; k < V; k++) row[k] = load_row(values + 16 * k);
    for (int a = 0; a < H; a++) {
      F share = all(p[a * seen + s]);
      for (int k = 0; k < V; k++) sums[a * V + k] = fma(share, row[k], sums[a * V + k]);
    }
  }
  for (int i = 0; i < H * V; i++) store(z + 16 * i, sums[i]);
}

template <class T, int C>
static void mix_heads(const float* p, int64_t seen, const T* values, int64_t count, float* z, int64_t heads,
                      int64_t c) {
  int64_t a = 0;
  if constexpr (C > 0) {
    constexpr int H = std::max(1, 256 / C);  // rows whose sums take half of the registers
    for (; a + H <= heads; a += H) mix<T, C, H>(p + a * seen, seen, values, count, z + a * C);
    for (; a < heads; a++) mix<T, C, 1>(p + a * seen, seen, values, count, z + a * C);
  }
  for (; a < heads; a++)
    for (int64_t s = 0; s < count; s++)
      for (int64_t k = 0; k < c; k++) z[a * c + k] += p[a * seen + s] * number(values[s * c + k]);
}

// Rows over the same keys: the heads of a group, of one query or of several consecutive ones.
struct Rows {
  std::vector<float> q, z;          // (n, c)
  std::vector<int64_t> first, seen; // (n): each row attends to keys `first` to `seen` - 1; the last row ends last
  std::vector<float> slope;         // (n): alibi, taken from a score for each key between it and the row's own
  float scale = 1, cap = 0;         // scores become scale q k, then cap tanh(score / cap) unless cap is 0
  std::vector<float> scores;        // (n, keys); this and the next are buffers, kept between calls
  std::vector<uint32_t> lines;      // of sixteen rows

  void resize(int64_t n, int64_t c) {
    q.resize(size_t(n * c)), z.resize(size_t(n * c));
    first.assign(size_t(n), 0), seen.assign(size_t(n), 0), slope.assign(size_t(n), 0);
  }
};

// Scores of n keys, the last of which is the row's own, to the pattern.
static void pattern_of(float* x, int64_t n, float slope, float cap) {
  if (cap > 0) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = cap * tanh(x[i] / cap);
  }
  if (slope != 0)
    for (int64_t i = 0; i < n; i++) x[i] -= slope * float(n - 1 - i);
  softmax(x, n);
}

// Scores (n, all) of all rows to their patterns, which are 0 for keys that a row does not see.
static void apply_patterns(Rows& rows, int64_t all) {
  for (size_t a = 0; a < rows.seen.size(); a++) {
    const int64_t first = rows.first[a], own = rows.seen[a];
    float* row = rows.scores.data() + int64_t(a) * all;
    pattern_of(row + first, own - first, rows.slope[a], rows.cap);
    std::fill(row, row + first, 0.0f), std::fill(row + own, row + all, 0.0f);
  }
}

template <class T, int C>
static void attend_to(const T* keys, const T* values, int64_t c, Rows& rows) {
  constexpr int64_t BLOCK = 64;  // values that stay in the L1 cache while all rows use them
  const int64_t n = int64_t(rows.seen.size()), all = rows.seen.back();
  const float scale = rows.scale, *q = rows.q.data();
  rows.scores.resize(size_t(n * all));
  float *scores = rows.scores.data(), *z = rows.z.data();
  if (n < 4 || c * sizeof(T) % 4) {
    for (int64_t s = 0; s < all; s++)
      for (int64_t a = 0; a < n; a++) scores[a * all + s] = scale * inner<T, C>(q + a * c, keys + s * c, c);
  } else {
    for (int64_t a = 0; a < n; a += 16)
      score_panel(keys, all, c, q + a * c, std::min<int64_t>(16, n - a), scale, rows.lines, scores + a * all);
  }
  apply_patterns(rows, all);
  std::fill(z, z + n * c, 0.0f);
  for (int64_t s = 0; s < all; s += BLOCK)
    mix_heads<T, C>(scores + s, all, values + s * c, std::min(BLOCK, all - s), z, n, c);
}

// Calls `run` with common head widths as constants that the compiler unrolls for, else with 0.
template <class Run>
static void of_width(int64_t c, Run run) {
  switch (c) {
    case 32: return run(std::integral_constant<int, 32>());
    case 48: return run(std::integral_constant<int, 48>());
    case 64: return run(std::integral_constant<int, 64>());
    case 80: return run(std::integral_constant<int, 80>());
    case 96: return run(std::integral_constant<int, 96>());
    case 128: return run(std::integral_constant<int, 128>());
    case 256: return run(std::integral_constant<int, 256>());
    default: return run(std::integral_constant<int, 0>());
  }
}

template <class T>
static void attend(const T* keys, const T* values, int64_t c, Rows& rows) {
  of_width(c, [&](auto width) { attend_to<T, decltype(width)::value>(keys, values, c, rows); });
}

// How many queries are computed together: as many as fill the lanes with their heads.
static inline int64_t queries_at_once(int64_t heads) { return std::max<int64_t>(1, 16 / heads); }

}  // namespace fathom
