// What lies between the matrix products of a training step in bf16. Each number is read once and written once, where an
// operator for each sign of the equation would read and write it many times; all is worked out in fp32.
//
// Every function goes over rows of n numbers, one after another in memory, or over numbers that stand alone.
#include <algorithm>
#include <cmath>

#include "exponential.h"
#include "isa.h"

using fathom::from_bf16;
using fathom::to_bf16;
using bf16 = uint16_t;

namespace {

inline float sigmoid(float x) { return 1 / (1 + fathom::fast_exp(-x)); }

// gelu(x) = x sigmoid(2 u), which is its tanh form, with u = sqrt(2 / pi) (x + 0.044715 x^3)
constexpr float TWICE = 2 * 0.7978845608f, CUBE = 0.044715f;
inline float bend(float x) { return TWICE * (x + CUBE * x * x * x); }
inline float slope(float x) { return TWICE * (1 + 3 * CUBE * x * x); }

}  // namespace

#define NUMBERS _Pragma("omp parallel for simd schedule(static) num_threads(threads)")
#define ROWS _Pragma("omp parallel for schedule(static) num_threads(threads)")

extern "C" {

void gelu(const bf16* x, bf16* y, int64_t n, int threads) {
  NUMBERS for (int64_t i = 0; i < n; i++) {
    float v = from_bf16(x[i]);
    y[i] = to_bf16(v * sigmoid(bend(v)));
  }
}
void gelu_back(const bf16* grad, const bf16* x, bf16* to_x, int64_t n, int threads) {
  NUMBERS for (int64_t i = 0; i < n; i++) {
    float v = from_bf16(x[i]), s = sigmoid(bend(v));
    to_x[i] = to_bf16(from_bf16(grad[i]) * (s + v * s * (1 - s) * slope(v)));
  }
}

// silu(gate) up
void swiglu(const bf16* gate, const bf16* up, bf16* y, int64_t n, int threads) {
  NUMBERS for (int64_t i = 0; i < n; i++) {
    float g = from_bf16(gate[i]);
    y[i] = to_bf16(g * sigmoid(g) * from_bf16(up[i]));
  }
}
void swiglu_back(const bf16* grad, const bf16* gate, const bf16* up, bf16* to_gate, bf16* to_up, int64_t n, int threads) {
  NUMBERS for (int64_t i = 0; i < n; i++) {
    float g = from_bf16(gate[i]), s = sigmoid(g), d = from_bf16(grad[i]);
    to_gate[i] = to_bf16(d * from_bf16(up[i]) * s * (1 + g * (1 - s)));
    to_up[i] = to_bf16(d * g * s);
  }
}

// x / sqrt(mean(x^2) + eps) weight
void rms(const bf16* x, const bf16* weight, float eps, bf16* y, int64_t rows, int64_t n, int threads) {
  ROWS for (int64_t row = 0; row < rows; row++) {
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
void rms_back(const bf16* grad, const bf16* x, const bf16* weight, float eps, bf16* to_x, int64_t rows, int64_t n,
              int threads) {
  ROWS for (int64_t row = 0; row < rows; row++) {
    const bf16 *from = x + row * n, *g = grad + row * n;
    bf16* to = to_x + row * n;
    float squares = 0, along = 0;
#pragma omp simd reduction(+ : squares, along)
    for (int64_t i = 0; i < n; i++) {
      squares += from_bf16(from[i]) * from_bf16(from[i]);
      along += from_bf16(g[i]) * from_bf16(weight[i]) * from_bf16(from[i]);
    }
    const float scale = 1 / std::sqrt(squares / n + eps), pull = along / n * scale * scale;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      to[i] = to_bf16(scale * (from_bf16(g[i]) * from_bf16(weight[i]) - from_bf16(from[i]) * pull));
  }
}

// Rows of logits become e^(x - largest); total and largest say what is needed to make them probabilities, and the loss.
void exponents(bf16* x, float* largest, float* total, int64_t rows, int64_t n, int threads) {
  ROWS for (int64_t row = 0; row < rows; row++) {
    bf16* at = x + row * n;
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) most = std::max(most, from_bf16(at[i]));
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
      float e = fathom::fast_exp(from_bf16(at[i]) - most);
      sum += e;
      at[i] = to_bf16(e);
    }
    largest[row] = most;
    total[row] = sum;
  }
}
}
