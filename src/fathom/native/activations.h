// The activations of the MLPs and their gradients, in fp32, with sigmoid(x) = 1 / (1 + e^-x).
//
//   gelu(x)   x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): the tanh form (Hendrycks & Gimpel 2016)
//   exact     x Phi(x), by erf
//   silu(x)   x sigmoid(x), the gate of SwiGLU (Shazeer 2020)
//   relu2(x)  max(x, 0)^2 (So et al. 2021)
//   tanh(x)   of soft caps
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
static inline float relu(float x) { return x <= 0 ? 0 : x; }  // NaN stays NaN
static inline float relu2(float x) { return x <= 0 ? 0 : x * x; }

// Within 1 ulp: a polynomial around 0, and 1 - e^p(|x|) beyond, by N. Juffa's coefficients.
static inline float erf(float x) {
  const float t = std::fabs(x), s = x * x;
  float far = -1.72853470e-5f * t + 3.83197126e-4f;
  far = far * s + (-3.88396438e-3f * t + 2.42546219e-2f);
  far = far * t - 1.06777877e-1f;
  far = far * t - 6.34846687e-1f;
  far = far * t - 1.28717512e-1f;
  far = std::copysign(1 - fast_exp(far * t - t), x);
  float near = -5.96761703e-4f;
  near = near * s + 4.99119423e-3f;
  near = near * s - 2.67681349e-2f;
  near = near * s + 1.12819925e-1f;
  near = near * s - 3.76125336e-1f;
  near = near * s + 1.28379166e-1f;
  return t > 0.927734375f ? far : near * x + x;
}
static inline float gelu_exact(float x) { return 0.5f * x * (1 + erf(x * 0.70710678f)); }

// A polynomial around 0 (Cephes, tanhf), where the exponential form would lose digits.
static inline float tanh(float x) {
  const float s = x * x, far = std::copysign(1 - 2 / (1 + fast_exp(2 * std::fabs(x))), x);
  float near = -5.70498872745e-3f;
  near = near * s + 2.06390887954e-2f;
  near = near * s - 5.37397155531e-2f;
  near = near * s + 1.33314422036e-1f;
  near = near * s - 3.33332819422e-1f;
  return std::fabs(x) > 0.625f ? far : near * s * x + x;
}

static inline float gelu_gradient(float grad, float x) {
  const float s = sigmoid(gelu_argument(x)), slope = GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x);
  return grad * (s + x * s * (1 - s) * slope);
}
static inline float silu_gradient(float grad, float x) {
  const float s = sigmoid(x);
  return grad * s * (1 + x * (1 - s));
}

}  // namespace fathom
