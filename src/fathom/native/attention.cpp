// Attention of a prompt: t queries (b, h, t, c) over s keys and values (b, g, s, c). The last query is at the last key;
// each sees its own key and those before it. The computation is in attention.h.
#include "attention.h"

using namespace fathom;

// stride: numbers from one head of keys to the next, over all rows; likewise for values. z (b, t, h, c).
template <class T>
static void attend_all(const T* q, const T* k, const T* v, T* z, int64_t b, int64_t h, int64_t g, int64_t t, int64_t s,
                       int64_t c, int64_t stride, int threads) {
  const int64_t n = h / g, at_once = queries_at_once(n), pieces = (t + at_once - 1) / at_once;
#pragma omp parallel num_threads(threads)
  {
    static thread_local Rows rows;  // each thread has its own, kept for the next call
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = b * g * pieces - 1; task >= 0; task--) {
      const int64_t pair = task / pieces, first = task % pieces * at_once, last = std::min(first + at_once, t);
      rows.resize((last - first) * n, c), rows.scale = 1 / std::sqrt(float(c)), rows.cap = 0;
      for (int64_t i = first, row = 0; i < last; i++)
        for (int64_t a = 0; a < n; a++, row++) {
          const T* from = q + ((pair * n + a) * t + i) * c;
          for (int64_t x = 0; x < c; x++) rows.q[size_t(row * c + x)] = number(from[x]);
          rows.seen[size_t(row)] = s - t + i + 1;
        }
      attend(k + pair * stride, v + pair * stride, c, rows);
      for (int64_t i = first, row = 0; i < last; i++)
        for (int64_t a = 0; a < n; a++, row++) {
          T* to = z + ((pair / g * t + i) * h + pair % g * n + a) * c;
          for (int64_t x = 0; x < c; x++) put(to + x, rows.z[size_t(row * c + x)]);
        }
    }
  }
}

extern "C" void attention(const void* q, const void* k, const void* v, void* z, bool bf16, const int64_t* sizes,
                          int threads) {
  const auto [b, h, g, t, s, c, stride] = *(const int64_t (*)[7])sizes;
  if (bf16)
    attend_all((const uint16_t*)q, (const uint16_t*)k, (const uint16_t*)v, (uint16_t*)z, b, h, g, t, s, c, stride,
               threads);
  else attend_all((const float*)q, (const float*)k, (const float*)v, (float*)z, b, h, g, t, s, c, stride, threads);
}
