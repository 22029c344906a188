// softmax(q k / sqrt(c)) v for the query heads that share one head of keys and values, over a cache as it lies.
//
//   keys, values   (seen, c), fp32 or bf16, row after row         each is read once for all heads of the group
//
// Scores: sixteen heads are a panel (panels.h) and a key is the vector that meets it, so that no sum crosses lanes.
//
//   line l   word l of head 0, of head 1, ... of head 15          word l of a key meets all of them at once
//
// Fewer than four heads would leave most lanes empty: there a head's channels lie in the lanes. Values: always so.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>
#include "isa.h"

namespace fathom {

static inline float fast_exp(float x) {  // within 2 units of the last place; vectorises, unlike the library's
  x = std::min(std::max(x, -87.0f), 88.0f);
  float n = std::rint(x * 1.44269504f), r = x - n * 0.693359375f - n * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  return (y * r * r + r + 1) * as_float(uint32_t(int(n) + 127) << 23);
}

static inline F load_row(const float* x) { return load(x); }
static inline F load_row(const uint16_t* x) { return load_bf16(x); }
static inline float number(float x) { return x; }
static inline float number(uint16_t x) { return from_bf16(x); }
static inline F dot(F acc, Line w, uint32_t x, const float*) { return dot_fp32(acc, w, x); }
static inline F dot(F acc, Line w, uint32_t x, const uint16_t*) { return dot_bf16(acc, w, x); }

// Word l of a row: one fp32 or two bf16. Queries come in fp32 and are brought to the format of the keys.
static inline uint32_t word_of(const float* q, int64_t l, const float*) { return as_bits(q[l]); }
static inline uint32_t word_of(const float* q, int64_t l, const uint16_t*) {
  return to_bf16(q[2 * l]) | uint32_t(to_bf16(q[2 * l + 1])) << 16;
}

template <class T, int K>
static inline void score_keys(const T* keys, int64_t c, int64_t words, const uint32_t* lines, float scale, int64_t heads, int64_t seen, float* scores) {
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

template <class T>
static void score_panel(const T* keys, int64_t seen, int64_t c, const float* q, int64_t heads, float scale, std::vector<uint32_t>& lines, float* scores) {
  const int64_t words = c * int64_t(sizeof(T)) / 4;
  lines.assign(size_t(16 * words), 0);
  for (int64_t a = 0; a < heads; a++)
    for (int64_t l = 0; l < words; l++) lines[size_t(16 * l + a)] = word_of(q + a * c, l, keys);
  int64_t s = 0;
  for (; s + 8 <= seen; s += 8) score_keys<T, 8>(keys + s * c, c, words, lines.data(), scale, heads, seen, scores + s);
  for (; s < seen; s++) score_keys<T, 1>(keys + s * c, c, words, lines.data(), scale, heads, seen, scores + s);
}

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
  float largest = x[0], total = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; i++) largest = std::max(largest, x[i]);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] = fast_exp(x[i] - largest);
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; i++) total += x[i];
  const float share = 1 / total;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] *= share;
}

// z of H heads += the values, each times the head's p for it; p (heads, seen), z (heads, c)
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
static void mix_heads(const float* p, int64_t seen, const T* values, int64_t count, float* z, int64_t heads, int64_t c) {
  int64_t a = 0;
  if constexpr (C > 0) {
    constexpr int H = std::max(1, 256 / C);  // whose sums fill half of the registers
    for (; a + H <= heads; a += H) mix<T, C, H>(p + a * seen, seen, values, count, z + a * C);
    for (; a < heads; a++) mix<T, C, 1>(p + a * seen, seen, values, count, z + a * C);
  }
  for (; a < heads; a++)
    for (int64_t s = 0; s < count; s++)
      for (int64_t k = 0; k < c; k++) z[a * c + k] += p[a * seen + s] * number(values[s * c + k]);
}

struct Room {  // kept from call to call
  std::vector<float> scores;    // (heads, seen)
  std::vector<uint32_t> lines;  // of sixteen queries
};

template <class T, int C>
static void attend_to(const T* keys, const T* values, int64_t seen, int64_t c, const float* q, int64_t heads, float* z, Room& room) {
  constexpr int64_t BLOCK = 64;  // values that stay in the nearest cache while every head meets them
  const float scale = 1 / std::sqrt(float(c));
  room.scores.resize(size_t(heads * seen));
  float* scores = room.scores.data();
  if (heads < 4 || c * sizeof(T) % 4) {
    for (int64_t s = 0; s < seen; s++)
      for (int64_t a = 0; a < heads; a++) scores[a * seen + s] = scale * inner<T, C>(q + a * c, keys + s * c, c);
  } else {
    for (int64_t a = 0; a < heads; a += 16)
      score_panel(keys, seen, c, q + a * c, std::min<int64_t>(16, heads - a), scale, room.lines, scores + a * seen);
  }
  for (int64_t a = 0; a < heads; a++) softmax(scores + a * seen, seen);
  std::fill(z, z + heads * c, 0.0f);
  for (int64_t s = 0; s < seen; s += BLOCK)
    mix_heads<T, C>(scores + s, seen, values + s * c, std::min(BLOCK, seen - s), z, heads, c);
}

// q and z (heads, c)
template <class T>
static void attend(const T* keys, const T* values, int64_t seen, int64_t c, const float* q, int64_t heads, float* z, Room& room) {
  switch (c) {  // widths that real models have, known to the compiler
    case 32: return attend_to<T, 32>(keys, values, seen, c, q, heads, z, room);
    case 48: return attend_to<T, 48>(keys, values, seen, c, q, heads, z, room);
    case 64: return attend_to<T, 64>(keys, values, seen, c, q, heads, z, room);
    case 128: return attend_to<T, 128>(keys, values, seen, c, q, heads, z, room);
    default: return attend_to<T, 0>(keys, values, seen, c, q, heads, z, room);
  }
}

}  // namespace fathom
