// The activations of the MLPs and their gradients, in fp32, with sigmoid(x) = 1 / (1 + e^-x).
//
//   gelu(x)   x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): the tanh form (Hendrycks & Gimpel 2016)
//   silu(x)   x sigmoid(x), the gate of SwiGLU (Shazeer 2020)
//   relu2(x)  max(x, 0)^2 (So et al. 2021)
//
// `grad` is the gradient of the loss with respect to the activation; a gradient function returns the one of x.
#pragma once
#include "exponential.h"

namespace fathom {

static inline float sigmoid(float x) { return 1 / (1 + fast_exp(-x)); }

constexpr float GELU_SCALE = 2 * 0.7978845608f, GELU_CUBIC = 0.044715f;
static inline float gelu_argument(float x) { return GELU_SCALE * (x + GELU_CUBIC * x * x * x); }  // 2 u

// One division, rounded once; x * sigmoid(...) rounds twice.
static inline float gelu(float x) { return x / (1 + fast_exp(-gelu_argument(x))); }
static inline float silu(float x) { return x / (1 + fast_exp(-x)); }
static inline float relu2(float x) { return x <= 0 ? 0 : x * x; }  // NaN stays NaN

static inline float gelu_gradient(float grad, float x) {
  const float s = sigmoid(gelu_argument(x)), slope = GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x);
  return grad * (s + x * s * (1 - s) * slope);
}
static inline float silu_gradient(float grad, float x) {
  const float s = sigmoid(x);
  return grad * s * (1 + x * (1 - s));
}

}  // namespace fathom
