// One linear layer, y = W x + b, for m vectors on all threads; and rows laid out as W has them. panels.h describes that.
#include "panels.h"

using namespace fathom;

// Memory of the thread that calls, kept for its next call so that a call allocates nothing.
static Input& kept_input() {
  static thread_local Input input;
  return input;
}

// x (m, in) and y (m, out), each fp32 or bf16, contiguous. Returns false, with nothing done, for an unknown kind of W.
extern "C" bool linear(const Linear* w, const void* x, bool x_bf16, int64_t m, void* y, bool y_bf16, int threads) {
  if (!w->valid()) return false;
  Input& input = kept_input();  // all threads read and fill this one
  input.reserve(*w, m);
#pragma omp parallel num_threads(threads)
  {
    static thread_local std::vector<float> row;  // each thread has its own
    row.resize(size_t(w->in));
#pragma omp for schedule(static)
    for (int64_t j = 0; j < m; j++) {
      const float* from = (const float*)x + j * w->in;
      if (x_bf16) {
        const uint16_t* narrow = (const uint16_t*)x + j * w->in;
        for (int64_t k = 0; k < w->in; k++) row[size_t(k)] = from_bf16(narrow[k]);
        from = row.data();
      }
      int64_t first = 0;
      while (j >= first + tile_at(*w, m - first)) first += tile_at(*w, m - first);
      input.pack(*w, from, first, tile_at(*w, m - first), int(j - first));
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t p = 0; p < w->panels(); p += BESIDE)
      product(*w, input, m, p, std::min(p + BESIDE, w->panels()), [&](int64_t i, int64_t r, const float* values, int64_t n) {
        if (y_bf16)
          for (int64_t k = 0; k < n; k++) ((uint16_t*)y)[i * w->out + r + k] = to_bf16(values[k]);
        else std::memcpy((float*)y + i * w->out + r, values, size_t(n) * 4);
      });
  }
  return true;
}

// Rows of `groups` groups of n numbers T, which may lie apart, as panels of 16 rows: the last one filled with zeros.
template <typename T>
static void in_panels(const uint8_t* rows, const int64_t* sizes, T* to, int threads) {
  const int64_t out = sizes[0], groups = sizes[1], n = sizes[2], row_step = sizes[3], group_step = sizes[4];
  const T flip = T(sizes[6]);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t p = 0; p < (out + 15) / 16; p++) {
    T* line = to + p * groups * n * 16;
    const int64_t here = std::min<int64_t>(16, out - p * 16);
    for (int64_t g = 0; g < groups; g++)
      for (int64_t k = 0; k < n; k++, line += 16)
        for (int64_t r = 0; r < 16; r++) {
          T value = 0;
          if (r < here) {
            std::memcpy(&value, rows + (p * 16 + r) * row_step + g * group_step + k * int64_t(sizeof(T)), sizeof(T));
            value ^= flip;
          }
          line[r] = value;
        }
  }
}

// sizes: rows, groups of a row, numbers of a group, bytes from one row to the next and from one group to the next, bytes
// of a number (1, 2 or 4), and the bits that are turned over in each.
extern "C" void transpose(const uint8_t* rows, const int64_t* sizes, uint8_t* to, int threads) {
  if (sizes[5] == 4) in_panels(rows, sizes, (uint32_t*)to, threads);
  else if (sizes[5] == 2) in_panels(rows, sizes, (uint16_t*)to, threads);
  else in_panels(rows, sizes, to, threads);
}
