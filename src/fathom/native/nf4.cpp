// NF4 to fp32 or bf16 in one pass: 4-bit codes and their scales in the layout of fathom/quant/nf4.py.
//
//   a block      32 bytes = 64 numbers; byte i holds number 2i in its high nibble and number 2i + 1 in its low nibble
//   its scale    fp32; or quantised itself: mean + (range of 256 blocks) * (one of 256 values)
//
// A block has at most 16 distinct values, so those are scaled and rounded once and every number is a table lookup.
#include <algorithm>

#include "isa.h"

namespace {

constexpr int64_t BLOCK = 64, SUPER = 256;

struct Scales {
  const float* plain;    // (blocks); null where the scales are quantised, by the next four
  const uint8_t* codes;  // (blocks)
  const float* ranges;   // (blocks / 256), rounded up
  const float* values;   // (256)
  float mean;

  float of(int64_t block) const {
    if (plain) return plain[block];
    volatile float product = values[codes[block]] * ranges[block / SUPER];  // not fused with the addition: torch rounds
    return product + mean;                                                  // after each operation
  }
};

inline void put(float x, float* y) { *y = x; }
inline void put(float x, uint16_t* y) { *y = fathom::to_bf16(x); }

template <class Number>
inline void look_up(const uint8_t* codes, const Number* table, Number* y, int64_t n) {
  for (int64_t i = 0; i + 1 < n; i += 2) {
    y[i] = table[codes[i / 2] >> 4];
    y[i + 1] = table[codes[i / 2] & 15];
  }
  if (n % 2) y[n - 1] = table[codes[n / 2] >> 4];
}

#if defined(__AVX512BW__)
inline void look_up(const uint8_t* codes, const uint16_t* table, uint16_t* y) {  // a whole block, 32 numbers at a time
  const __m512i numbers = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)table));
  for (int half = 0; half < 2; half++) {
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)codes + half));
    __m512i places = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
    places = _mm512_and_si512(places, _mm512_set1_epi16(15));
    _mm512_storeu_si512(y + 32 * half, _mm512_permutexvar_epi16(places, numbers));
  }
}
inline void look_up(const uint8_t* codes, const float* table, float* y) {
  const __m512 numbers = _mm512_loadu_ps(table);
  for (int part = 0; part < 4; part++) {
    __m128i bytes = _mm_loadl_epi64((const __m128i*)(codes + 8 * part));
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    __m512i places = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(high, bytes));
    _mm512_storeu_ps(y + 16 * part, _mm512_permutexvar_ps(places, numbers));  // reads only the low 4 bits of a place
  }
}
#else
template <class Number>
inline void look_up(const uint8_t* codes, const Number* table, Number* y) {
  look_up(codes, table, y, BLOCK);
}
#endif

// The 16 values of a block.
template <class Number>
inline void multiply(const float* values, float scale, Number* table) {
  for (int i = 0; i < 16; i++) put(values[i] * scale, table + i);
}
#if defined(__AVX512BF16__) && defined(__AVX512F__)
inline void multiply(const float* values, float scale, uint16_t* table) {
  if (scale < 1e-30f) return multiply<uint16_t>(values, scale, table);  // the instruction flushes subnormals to 0
  _mm256_storeu_si256((__m256i*)table, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(values) * scale));
}
#endif

template <class Number>
void unpack(const uint8_t* codes, Scales scales, const float* values, Number* y, int64_t n, int threads) {
  const int64_t blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t block = 0; block < blocks; block++) {
    const float scale = scales.of(block);
    Number table[16];
    multiply(values, scale, table);
    const uint8_t* from = codes + block * (BLOCK / 2);
    const int64_t start = block * BLOCK, left = std::min(BLOCK, n - start);
    if (left == BLOCK) look_up(from, table, y + start);
    else look_up(from, table, y + start, left);
  }
}

}  // namespace

// Unpacks n numbers. values: the 16 of NF4. Either `plain` is null or the other four tensors of the scales are.
extern "C" void unpack_nf4(const uint8_t* codes, const float* values, const float* plain, const uint8_t* scale_codes,
                           const float* ranges, const float* dynamic, const float* mean, int64_t n, void* y, bool bf16,
                           int threads) {
  const Scales scales{plain, scale_codes, ranges, dynamic, mean ? *mean : 0};
  if (bf16) unpack(codes, scales, values, (uint16_t*)y, n, threads);
  else unpack(codes, scales, values, (float*)y, n, threads);
}
