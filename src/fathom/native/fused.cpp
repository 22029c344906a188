// The elementwise and norm kernels between the matrix products of a bf16 training step. Each reads and writes every
// number once, where separate operators would do so for each operation of the equation. Arithmetic is in fp32.
//
// A function works on n numbers, or on rows of n numbers; all tensors are contiguous.
#include <algorithm>
#include <cmath>

#include "activations.h"
#include "isa.h"

using namespace fathom;
using bf16 = uint16_t;

#define EACH_NUMBER _Pragma("omp parallel for simd schedule(static) num_threads(threads)")
#define EACH_ROW _Pragma("omp parallel for schedule(static) num_threads(threads)")

extern "C" {

void gelu_forward(const bf16* x, bf16* y, int64_t n, int threads) {
  EACH_NUMBER for (int64_t i = 0; i < n; i++) y[i] = to_bf16(gelu(from_bf16(x[i])));
}
void gelu_backward(const bf16* grad_y, const bf16* x, bf16* grad_x, int64_t n, int threads) {
  EACH_NUMBER for (int64_t i = 0; i < n; i++) grad_x[i] = to_bf16(gelu_gradient(from_bf16(grad_y[i]), from_bf16(x[i])));
}

// silu(gate) up. Not by silu(), which divides: that rounds differently, and training runs resume bit for bit.
void swiglu_forward(const bf16* gate, const bf16* up, bf16* y, int64_t n, int threads) {
  EACH_NUMBER for (int64_t i = 0; i < n; i++) {
    const float g = from_bf16(gate[i]);
    y[i] = to_bf16(g * sigmoid(g) * from_bf16(up[i]));
  }
}
void swiglu_backward(const bf16* grad_y, const bf16* gate, const bf16* up, bf16* grad_gate, bf16* grad_up, int64_t n,
                     int threads) {
  EACH_NUMBER for (int64_t i = 0; i < n; i++) {
    const float g = from_bf16(gate[i]), grad = from_bf16(grad_y[i]);
    grad_gate[i] = to_bf16(silu_gradient(grad * from_bf16(up[i]), g));
    grad_up[i] = to_bf16(grad * g * sigmoid(g));
  }
}

// x / sqrt(mean(x^2) + eps) weight
void rms_norm_forward(const bf16* x, const bf16* weight, float eps, bf16* y, int64_t rows, int64_t n, int threads) {
  EACH_ROW for (int64_t row = 0; row < rows; row++) {
    const bf16* from = x + row * n;
    bf16* to = y + row * n;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += from_bf16(from[i]) * from_bf16(from[i]);
    const float scale = 1 / std::sqrt(squares / n + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = to_bf16(from_bf16(from[i]) * scale * from_bf16(weight[i]));
  }
}
void rms_norm_backward(const bf16* grad_y, const bf16* x, const bf16* weight, float eps, bf16* grad_x, int64_t rows,
                       int64_t n, int threads) {
  EACH_ROW for (int64_t row = 0; row < rows; row++) {
    const bf16 *from = x + row * n, *grad = grad_y + row * n;
    bf16* to = grad_x + row * n;
    float squares = 0, inner = 0;  // x . x and (grad weight) . x
#pragma omp simd reduction(+ : squares, inner)
    for (int64_t i = 0; i < n; i++) {
      squares += from_bf16(from[i]) * from_bf16(from[i]);
      inner += from_bf16(grad[i]) * from_bf16(weight[i]) * from_bf16(from[i]);
    }
    const float scale = 1 / std::sqrt(squares / n + eps), projection = inner / n * scale * scale;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      to[i] = to_bf16(scale * (from_bf16(grad[i]) * from_bf16(weight[i]) - from_bf16(from[i]) * projection));
  }
}

// Replaces each row of logits by e^(x - largest); with `largest` and `total` the caller has the softmax and the loss.
void exponentials(bf16* x, float* largest, float* total, int64_t rows, int64_t n, int threads) {
  EACH_ROW for (int64_t row = 0; row < rows; row++) {
    bf16* at = x + row * n;
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) most = std::max(most, from_bf16(at[i]));
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
      const float e = fast_exp(from_bf16(at[i]) - most);
      sum += e;
      at[i] = to_bf16(e);
    }
    largest[row] = most;
    total[row] = sum;
  }
}
}
