// The parts of a block that work on one vector at a time: norms, activations, rotation.
#pragma once
#include "activations.h"
#include "step.h"

namespace fathom {

// Of n.width numbers; y may be x.
static void norm(const Norm& n, const float* x, float* y) {
  const int64_t d = n.width;
  const float mean = n.kind == NormKind::LAYER ? total(x, d) / float(d) : 0;
  const float scale = 1 / std::sqrt(total_of_squares(x, d, mean) / float(d) + float(n.eps));
#pragma omp simd
  for (int64_t i = 0; i < d; i++) y[i] = (x[i] - mean) * scale * (n.weight ? n.weight[i] : 1) + (n.bias ? n.bias[i] : 0);
}

// In place. Without a default: a kind that has no case does not compile (-Werror=switch).
static void activate(MlpKind kind, float* up, const float* gate, int64_t n) {
  switch (kind) {
    case MlpKind::NONE: return;
    case MlpKind::GELU:
#pragma omp simd
      for (int64_t i = 0; i < n; i++) up[i] = gelu(up[i]);
      return;
    case MlpKind::GELU_EXACT:
#pragma omp simd
      for (int64_t i = 0; i < n; i++) up[i] = gelu_exact(up[i]);
      return;
    case MlpKind::RELU:
      for (int64_t i = 0; i < n; i++) up[i] = relu(up[i]);
      return;
    case MlpKind::RELU2:
      for (int64_t i = 0; i < n; i++) up[i] = relu2(up[i]);
      return;
    case MlpKind::SWIGLU:
#pragma omp simd
      for (int64_t i = 0; i < n; i++) up[i] *= silu(gate[i]);
      return;
    case MlpKind::GEGLU:
#pragma omp simd
      for (int64_t i = 0; i < n; i++) up[i] *= gelu(gate[i]);
      return;
  }
}

// Of the first r channels, i and i + r/2 are the coordinates of a point, rotated by its angle.
static void rotate(float* x, const float* cos_sin, int64_t r) {
  const float *cos = cos_sin, *sin = cos_sin + r / 2;
  for (int64_t i = 0; i < r / 2; i++) {
    const float first = x[i], second = x[i + r / 2];
    x[i] = first * cos[i] - second * sin[i];
    x[i + r / 2] = second * cos[i] + first * sin[i];
  }
}

// One row of a table in fp32 or bf16, as fp32.
static void fetch(const void* from, bool narrow, int64_t offset, int64_t n, float* to) {
  if (!narrow) return void(std::memcpy(to, (const float*)from + offset, size_t(n) * 4));
  for (int64_t i = 0; i < n; i++) to[i] = from_bf16(((const uint16_t*)from)[offset + i]);
}

}  // namespace fathom
