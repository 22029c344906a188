// The linear layer alone: y = W x + b for m vectors, over all threads. panels.h says how W lies.
#include "panels.h"

using namespace fathom;

// x (m, in) and y (m, out), fp32 or bf16, row after row.
extern "C" void linear(const Linear* w, const void* x, int x_bf16, int64_t m, void* y, int y_bf16, int threads) {
  static thread_local Input input;  // kept for the next call: a step allocates nothing
  Input& shared = input;
  shared.make_room(*w, m);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float>& row = input.row;  // this thread's own
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
      shared.pack(*w, from, first, tile_at(*w, m - first), int(j - first));
    }
#pragma omp for schedule(dynamic, 4)
    for (int64_t p = 0; p < w->panels(); p++)
      product(*w, shared, m, p, p + 1, [&](int64_t i, int64_t r, const float* values, int64_t n) {
        if (y_bf16)
          for (int64_t k = 0; k < n; k++) ((uint16_t*)y)[i * w->out + r + k] = to_bf16(values[k]);
        else std::memcpy((float*)y + i * w->out + r, values, size_t(n) * 4);
      });
  }
}
