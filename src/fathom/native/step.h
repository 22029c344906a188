// The structures that Python passes to `step` (interface.py lists the same fields), and the checks made first: no
// enumeration value and no id is trusted.
#pragma once
#include "panels.h"

namespace fathom {

enum class NormKind : int64_t { NONE, LAYER, RMS };
enum class MlpKind : int64_t { NONE, GELU, RELU2, SWIGLU };
enum class PositionKind : int64_t { NONE, LEARNED, ROPE };

struct Norm {
  NormKind kind;
  const float *weight, *bias;
  double eps;
};
struct Layer {
  Norm attn_norm, mlp_norm, q_norm, k_norm;
  Linear q, k, v, out, gate, up, down;
};
struct Model {
  int64_t n_layer, d, h, g, c, f;
  MlpKind mlp;
  PositionKind position;
  int64_t residual, bf16;     // bf16: the format of embed and table
  int64_t vocab, context;     // their rows
  const void *embed, *table;  // (V, d), (context, d)
  const float* frequency;     // (c / 2)
  double rope_scale;
  Norm final_norm;
  const Layer* layers;
};
struct Pass {
  int64_t b, t, length, capacity, cache_bf16;
  const int64_t *ids, *positions, *padding;  // (b, t), (b, t), (b) or null
  void* store;                               // (n_layer, 2, b, g, capacity, c)
  float* hidden;                             // (b, t, d): the result
};

constexpr int64_t OK = -1, UNSUPPORTED = -2;

// Whether every choice is one that this file implements.
static bool supported(const Model& model) {
  const auto known = [](auto kind, auto last) { return int64_t(kind) >= 0 && kind <= last; };
  bool all = known(model.mlp, MlpKind::SWIGLU) && known(model.position, PositionKind::ROPE) &&
             known(model.final_norm.kind, NormKind::RMS);
  for (int64_t l = 0; l < model.n_layer; l++) {
    const Layer& layer = model.layers[l];
    for (const Norm* n : {&layer.attn_norm, &layer.mlp_norm, &layer.q_norm, &layer.k_norm})
      all = all && known(n->kind, NormKind::RMS);
    for (const Linear* w : {&layer.q, &layer.k, &layer.v, &layer.out, &layer.gate, &layer.up, &layer.down})
      all = all && w->valid();
  }
  return all;
}

// The index of the first token whose id or position lies outside its table, else OK.
static int64_t first_outside(const Model& model, const Pass& pass) {
  for (int64_t i = 0; i < pass.b * pass.t; i++)
    if (uint64_t(pass.ids[i]) >= uint64_t(model.vocab) ||
        (model.position == PositionKind::LEARNED && uint64_t(pass.positions[i]) >= uint64_t(model.context)))
      return i;
  return OK;
}

}  // namespace fathom
