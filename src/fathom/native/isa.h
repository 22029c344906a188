// Sixteen lanes. The kernels are written once, with the operations of this file, which each instruction set implements.
//
//   F  16 floats        I  16 int32        Line  64 bytes of weights: 4 bytes for each of 16 rows
//
// In a product with a matrix a lane is a row, so that no sum crosses lanes; only attention needs one that does (`sum`).
#pragma once
#include <cstdint>
#include <cstring>

namespace fathom {

static inline float as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }
static inline float from_bf16(uint16_t x) { return as_float(uint32_t(x) << 16); }
static inline uint16_t to_bf16(float x) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits = as_bits(x);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 64 : rounded);
}

}  // namespace fathom

#if defined(__AVX512F__)
#include <immintrin.h>
namespace fathom {
using F = __m512;
using I = __m512i;
using Line = __m512i;
constexpr int OFFSET8 = 128;  // of stored int8 weights: `dot8` multiplies them as unsigned

static inline F zero() { return _mm512_setzero_ps(); }
static inline F load(const float* x) { return _mm512_loadu_ps(x); }
static inline F load_bf16(const uint16_t* x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)), 16));
}
static inline void store(float* y, F x) { _mm512_storeu_ps(y, x); }
static inline F all(float x) { return _mm512_set1_ps(x); }
static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c
static inline float sum(F x) { return _mm512_reduce_add_ps(x); }
static inline F halves(const uint16_t* x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)x)); }
static inline F bytes(const int8_t* x) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)x)));
}
static inline I all(int32_t x) { return _mm512_set1_epi32(x); }
static inline F to_float(I x) { return _mm512_cvtepi32_ps(x); }

static inline Line line(const void* p) { return _mm512_loadu_si512(p); }
static inline Line low(Line x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
static inline Line high(Line x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
template <int S, int MASK>  // each byte moved right by S (left where S < 0), and of it the bits of MASK
static inline Line shifted_bits(Line x) {
  const Line moved = S < 0 ? _mm512_slli_epi16(x, S < 0 ? -S : 0) : _mm512_srli_epi16(x, S < 0 ? 0 : S);
  return _mm512_and_si512(moved, _mm512_set1_epi8(MASK));
}
static inline Line either(Line a, Line b) { return _mm512_or_si512(a, b); }
static inline I dot8(I acc, Line w, uint32_t x) { return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(int(x))); }
static inline I dot4(I acc, Line w, uint32_t x) { return dot8(acc, w, x); }
static inline F dot_fp32(F acc, Line w, uint32_t x) {
  return _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(_mm512_set1_epi32(int(x))), acc);
}
#if defined(__AVX512BF16__)
static inline F dot_bf16(F acc, Line w, uint32_t x) {
  return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)_mm512_set1_epi32(int(x)));
}
#else
static inline F dot_bf16(F acc, Line w, uint32_t x) {
  acc = dot_fp32(acc, _mm512_slli_epi32(w, 16), x << 16);
  return dot_fp32(acc, _mm512_and_si512(w, _mm512_set1_epi32(int(0xffff0000))), x & 0xffff0000);
}
#endif
}  // namespace fathom

#elif defined(__AVX2__)
#include <immintrin.h>
namespace fathom {
struct F { __m256 a, b; };
struct I { __m256i a, b; };
using Line = I;
constexpr int OFFSET8 = 128;

static inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline F load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
static inline __m256 load_bf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
static inline F load_bf16(const uint16_t* x) {
  return {load_bf16(_mm_loadu_si128((const __m128i*)x)), load_bf16(_mm_loadu_si128((const __m128i*)x + 1))};
}
static inline void store(float* y, F x) { _mm256_storeu_ps(y, x.a); _mm256_storeu_ps(y + 8, x.b); }
static inline F all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline F add(F a, F b) { return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
static inline F mul(F a, F b) { return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
static inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)}; }
static inline float sum(F x) {
  __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline F halves(const uint16_t* x) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)x)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)x + 1))};
}
static inline F bytes(const int8_t* x) {
  const __m128i all = _mm_loadu_si128((const __m128i*)x);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all, 8)))};
}
static inline I all(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

static inline Line line(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
static inline Line low(Line x) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
static inline Line high(Line x) { return low({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
template <int S, int MASK>  // each byte moved right by S (left where S < 0), and of it the bits of MASK
static inline Line shifted_bits(Line x) {
  constexpr int left = S < 0 ? -S : 0, right = S < 0 ? 0 : S;
  const __m256i m = _mm256_set1_epi8(MASK);
  return {_mm256_and_si256(_mm256_srli_epi16(_mm256_slli_epi16(x.a, left), right), m),
          _mm256_and_si256(_mm256_srli_epi16(_mm256_slli_epi16(x.b, left), right), m)};
}
static inline Line either(Line x, Line y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
static inline __m256i dot8(__m256i acc, __m256i w, __m256i even, __m256i odd) {  // exact: 32-bit sums
  __m256i first = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), even);
  __m256i second = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd);
  return _mm256_add_epi32(acc, _mm256_add_epi32(first, second));
}
static inline I dot8(I acc, Line w, uint32_t x) {
  __m256i bytes = _mm256_set1_epi32(int(x));
  __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), odd = _mm256_srai_epi16(bytes, 8);
  return {dot8(acc.a, w.a, even, odd), dot8(acc.b, w.b, even, odd)};
}
// Products of codes of up to 6 bits are added up in 16 bits first: a sum of two is at most 2 * 63 * 127, and of 2 words, or
// 4 of 5 bits, or 8 of 4 bits, it still fits.
#define SHORT_SUMS
struct Shorts { __m256i a, b; };
static inline Shorts begin(I) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline Shorts dot4(Shorts acc, Line w, uint32_t x) {
  const __m256i bytes = _mm256_set1_epi32(int(x));
  return {_mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, bytes)),
          _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, bytes))};
}
static inline I end(I acc, Shorts sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(sum.a, ones)), _mm256_add_epi32(acc.b, _mm256_madd_epi16(sum.b, ones))};
}
static inline F dot_fp32(F acc, Line w, uint32_t x) {
  __m256 s = _mm256_set1_ps(as_float(x));
  return {_mm256_fmadd_ps(_mm256_castsi256_ps(w.a), s, acc.a), _mm256_fmadd_ps(_mm256_castsi256_ps(w.b), s, acc.b)};
}
static inline F dot_bf16(F acc, Line w, uint32_t x) {
  const __m256i m = _mm256_set1_epi32(int(0xffff0000));
  acc = dot_fp32(acc, {_mm256_slli_epi32(w.a, 16), _mm256_slli_epi32(w.b, 16)}, x << 16);
  return dot_fp32(acc, {_mm256_and_si256(w.a, m), _mm256_and_si256(w.b, m)}, x & 0xffff0000);
}
}  // namespace fathom

#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
namespace fathom {
struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
using Line = I;
constexpr int OFFSET8 = 0;  // `dot8` removes the offset itself: its instruction multiplies signed weights
#define EACH for (int i = 0; i < 4; i++)

static inline F all(float x) { F y; EACH y.v[i] = vdupq_n_f32(x); return y; }
static inline F zero() { return all(0.0f); }
static inline F load(const float* x) { F y; EACH y.v[i] = vld1q_f32(x + 4 * i); return y; }
static inline F load_bf16(const uint16_t* x) {
  F y; EACH y.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x + 4 * i), 16)); return y;
}
static inline void store(float* y, F x) { EACH vst1q_f32(y + 4 * i, x.v[i]); }
static inline F add(F a, F b) { EACH a.v[i] = vaddq_f32(a.v[i], b.v[i]); return a; }
static inline F mul(F a, F b) { EACH a.v[i] = vmulq_f32(a.v[i], b.v[i]); return a; }
static inline F fma(F a, F b, F c) { EACH c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]); return c; }
static inline float sum(F x) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[1]), vaddq_f32(x.v[2], x.v[3])));
}
static inline F halves(const uint16_t* x) {
  F y; EACH y.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + 4 * i))); return y;
}
static inline F bytes(const int8_t* x) {
  F y;
  for (int i = 0; i < 2; i++) {
    const int16x8_t eight = vmovl_s8(vld1_s8(x + 8 * i));
    y.v[2 * i] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(eight)));
    y.v[2 * i + 1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(eight)));
  }
  return y;
}
static inline I all(int32_t x) { I y; EACH y.v[i] = vdupq_n_s32(x); return y; }
static inline F to_float(I x) { F y; EACH y.v[i] = vcvtq_f32_s32(x.v[i]); return y; }

static inline Line line(const void* p) { I y; EACH y.v[i] = vld1q_s32((const int32_t*)p + 4 * i); return y; }
static inline Line low(Line x) {
  EACH x.v[i] = vandq_s32(x.v[i], vdupq_n_s32(0x0f0f0f0f)); return x;
}
static inline Line high(Line x) {
  EACH x.v[i] = vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(x.v[i]), 4)); return x;
}
template <int S, int MASK>  // each byte moved right by S (left where S < 0), and of it the bits of MASK
static inline Line shifted_bits(Line x) {
  EACH x.v[i] = vreinterpretq_s32_u8(
      vandq_u8(vshlq_u8(vreinterpretq_u8_s32(x.v[i]), vdupq_n_s8(-S)), vdupq_n_u8(MASK)));
  return x;
}
static inline Line either(Line a, Line b) { EACH a.v[i] = vorrq_s32(a.v[i], b.v[i]); return a; }
static inline I dot4(I acc, Line w, uint32_t x) {
  int8x16_t bytes = vreinterpretq_s8_u32(vdupq_n_u32(x));
  EACH acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_s32(w.v[i]), bytes); return acc;
}
static inline I dot8(I acc, Line w, uint32_t x) {
  EACH w.v[i] = veorq_s32(w.v[i], vdupq_n_s32(int32_t(0x80808080))); return dot4(acc, w, x);
}
static inline F dot_fp32(F acc, Line w, uint32_t x) {
  EACH acc.v[i] = vfmaq_n_f32(acc.v[i], vreinterpretq_f32_s32(w.v[i]), as_float(x)); return acc;
}
static inline F dot_bf16(F acc, Line w, uint32_t x) {
  Line first, second;
  EACH first.v[i] = vshlq_n_s32(w.v[i], 16);
  EACH second.v[i] = vandq_s32(w.v[i], vdupq_n_s32(int32_t(0xffff0000)));
  return dot_fp32(dot_fp32(acc, first, x << 16), second, x & 0xffff0000);
}
#undef EACH
}  // namespace fathom

#else
namespace fathom {
struct F { float v[16]; };
struct I { int32_t v[16]; };
struct Line { uint8_t v[64]; };
constexpr int OFFSET8 = 128;
#define EACH for (int i = 0; i < 16; i++)

static inline F all(float x) { F y; EACH y.v[i] = x; return y; }
static inline F zero() { return all(0.0f); }
static inline F load(const float* x) { F y; EACH y.v[i] = x[i]; return y; }
static inline F load_bf16(const uint16_t* x) { F y; EACH y.v[i] = from_bf16(x[i]); return y; }
static inline void store(float* y, F x) { EACH y[i] = x.v[i]; }
static inline F add(F a, F b) { EACH a.v[i] += b.v[i]; return a; }
static inline F mul(F a, F b) { EACH a.v[i] *= b.v[i]; return a; }
static inline F fma(F a, F b, F c) { EACH c.v[i] += a.v[i] * b.v[i]; return c; }
static inline float sum(F x) { float y = 0; EACH y += x.v[i]; return y; }
static inline float half(uint16_t x) {
  uint32_t sign = uint32_t(x & 0x8000) << 16, rest = x & 0x7fff;
  if (rest >= 0x7c00) return as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  float size = rest >= 0x400 ? as_float((rest << 13) + (112u << 23)) : float(rest) * 0x1p-24f;
  return sign ? -size : size;
}
static inline F halves(const uint16_t* x) { F y; EACH y.v[i] = half(x[i]); return y; }
static inline F bytes(const int8_t* x) { F y; EACH y.v[i] = x[i]; return y; }
static inline I all(int32_t x) { I y; EACH y.v[i] = x; return y; }
static inline F to_float(I x) { F y; EACH y.v[i] = float(x.v[i]); return y; }

static inline Line line(const void* p) { Line y; std::memcpy(y.v, p, 64); return y; }
static inline Line low(Line x) { for (auto& byte : x.v) byte &= 15; return x; }
static inline Line high(Line x) { for (auto& byte : x.v) byte >>= 4; return x; }
template <int S, int MASK>  // each byte moved right by S (left where S < 0), and of it the bits of MASK
static inline Line shifted_bits(Line x) {
  for (auto& byte : x.v) byte = uint8_t((S < 0 ? byte << (S < 0 ? -S : 0) : byte >> (S < 0 ? 0 : S)) & MASK);
  return x;
}
static inline Line either(Line a, Line b) { for (int i = 0; i < 64; i++) a.v[i] |= b.v[i]; return a; }
static inline I dot8(I acc, Line w, uint32_t x) {
  int8_t bytes[4];
  std::memcpy(bytes, &x, 4);
  EACH for (int j = 0; j < 4; j++) acc.v[i] += int32_t(w.v[4 * i + j]) * bytes[j];
  return acc;
}
static inline I dot4(I acc, Line w, uint32_t x) { return dot8(acc, w, x); }
static inline F dot_fp32(F acc, Line w, uint32_t x) {
  float s = as_float(x), values[16];
  std::memcpy(values, w.v, 64);
  EACH acc.v[i] += values[i] * s;
  return acc;
}
static inline F dot_bf16(F acc, Line w, uint32_t x) {
  uint16_t values[32];
  std::memcpy(values, w.v, 64);
  EACH acc.v[i] += from_bf16(values[2 * i]) * as_float(x << 16);
  EACH acc.v[i] += from_bf16(values[2 * i + 1]) * as_float(x & 0xffff0000);
  return acc;
}
#undef EACH
}  // namespace fathom
#endif

namespace fathom {

// Sums of products of small codes, between `begin` and `end`: the same numbers, whatever they are added up in.
#ifndef SHORT_SUMS
using Shorts = I;
static inline Shorts begin(I acc) { return acc; }
static inline I end(I, Shorts sum) { return sum; }
#endif

// Sums of n numbers in one order wherever they lie in memory: lane by lane, then what is left, one by one.
static inline float total(const float* x, int64_t n) {
  F sums = zero();
  float rest = 0;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sums = add(sums, load(x + i));
  for (; i < n; i++) rest += x[i];
  return sum(sums) + rest;
}
static inline float total_of_products(const float* x, const float* y, int64_t n) {
  F sums = zero();
  float rest = 0;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sums = fma(load(x + i), load(y + i), sums);
  for (; i < n; i++) rest += x[i] * y[i];
  return sum(sums) + rest;
}
static inline float total_of_squares(const float* x, int64_t n, float mean) {  // of x - mean
  F sums = zero();
  float rest = 0;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const F far = add(load(x + i), all(-mean));
    sums = fma(far, far, sums);
  }
  for (; i < n; i++) rest += (x[i] - mean) * (x[i] - mean);
  return sum(sums) + rest;
}

}  // namespace fathom
