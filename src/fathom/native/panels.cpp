// One linear layer, y = W x + b, for m vectors on all threads. panels.h describes the layout of W.
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
