// Attention over keys and values in pages of 16 tokens that lie anywhere in a pool (backend/pages.py).
//
//   keys     (page, head, word, 16)   a page of one head is a panel (panels.h): 16 keys side by side, one a lane
//   values   (page, head, 16, c)
//
// A score is one chain of additions in the lane of its key, a number of the result one over the keys in their order:
// neither depends on how many rows are computed together, or on what was read in which pass.
#pragma once
#include "attention.h"
#include "panels.h"

namespace fathom {

constexpr int64_t PAGE = 16;

template <class T>
struct Pages {  // one head of a row
  const int64_t* table;  // the row's pages, in the order of its tokens
  T *keys, *values;      // of this head in page 0
  int64_t stride;        // numbers from one page to the next
  T* keys_of(int64_t page) const { return keys + table[page] * stride; }
  T* values_of(int64_t page) const { return values + table[page] * stride; }
};

// Stores key and value (c) of token s.
template <class T>
static void write(const Pages<T>& pages, int64_t s, int64_t c, const float* key, const float* value) {
  constexpr int64_t N = 4 / sizeof(T);  // numbers of a word
  T *keys = pages.keys_of(s / PAGE), *values = pages.values_of(s / PAGE) + s % PAGE * c;
  for (int64_t i = 0; i < c; i++) put(keys + (i / N * PAGE + s % PAGE) * N + i % N, key[i]), put(values + i, value[i]);
}

// Scores of W rows, whose words lie side by side, for up to BESIDE pages: (W, all keys).
template <class T, int W>
static inline void score_tile(const uint8_t* const* keys, int64_t count, int64_t words, const uint32_t* rows, float scale,
                              int64_t all_keys, float* scores) {
  F y[BESIDE * W];
  float_tiles<sizeof(T) == 4 ? FP32 : BF16, W>(keys, count, words, rows, y);
  for (int64_t p = 0; p < count; p++)
    for (int64_t a = 0; a < W; a++) store(scores + a * all_keys + PAGE * p, mul(y[p * W + a], all(scale)));
}

static inline int64_t rows_of_tile(int64_t left) { return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

// Scores of all rows for the keys of `count` pages from page `first` on: (n, 16 count).
template <class T>
static void score_pages(const Pages<T>& pages, int64_t first, int64_t count, int64_t c, Rows& rows) {
  const int64_t words = c * int64_t(sizeof(T)) / 4, n = int64_t(rows.seen.size()), all_keys = PAGE * count;
  rows.lines.resize(size_t(n * words));
  for (int64_t a = 0, W; a < n; a += W) {
    W = rows_of_tile(n - a);
    for (int64_t i = 0; i < W; i++)
      for (int64_t l = 0; l < words; l++)
        rows.lines[size_t(a * words + l * W + i)] = word_of(&rows.q[size_t((a + i) * c)], l, pages.keys);
  }
  for (int64_t p = 0; p < count; p += BESIDE) {
    const int64_t beside = std::min<int64_t>(BESIDE, count - p);
    const uint8_t* keys[BESIDE];
    for (int64_t i = 0; i < beside; i++) keys[i] = (const uint8_t*)pages.keys_of(first + p + i);
    for (int64_t a = 0, W; a < n; a += W) {
      W = rows_of_tile(n - a);
      const uint32_t* lines = rows.lines.data() + a * words;
      float* scores = rows.scores.data() + a * all_keys + PAGE * p;
      switch (W) {
        case 8: score_tile<T, 8>(keys, beside, words, lines, rows.scale, all_keys, scores); break;
        case 4: score_tile<T, 4>(keys, beside, words, lines, rows.scale, all_keys, scores); break;
        case 2: score_tile<T, 2>(keys, beside, words, lines, rows.scale, all_keys, scores); break;
        default: score_tile<T, 1>(keys, beside, words, lines, rows.scale, all_keys, scores);
      }
    }
  }
}

// rows.z from rows.q. `first` and `seen` of the rows are counted from the beginning of page `page`.
template <class T>
static void attend(const Pages<T>& pages, int64_t page, int64_t c, Rows& rows) {
  const int64_t n = int64_t(rows.seen.size()), seen = rows.seen.back(), count = (seen + PAGE - 1) / PAGE;
  rows.scores.resize(size_t(n * PAGE * count));
  score_pages(pages, page, count, c, rows);
  apply_patterns(rows, PAGE * count);
  std::fill(rows.z.begin(), rows.z.end(), 0.0f);
  of_width(c, [&](auto width) {
    for (int64_t p = 0; p < count; p++)
      mix_heads<T, decltype(width)::value>(&rows.scores[size_t(PAGE * p)], PAGE * count, pages.values_of(page + p),
                                           std::min(PAGE, seen - PAGE * p), rows.z.data(), n, c);
  });
}

}  // namespace fathom
