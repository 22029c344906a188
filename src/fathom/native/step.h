// The structures that Python passes to `step` (interface.py lists the same fields), and the checks made first: no
// enumeration value and no id is trusted. What a model does not have is a null pointer, a 0 or a NONE.
#pragma once
#include "panels.h"

namespace fathom {

enum class NormKind : int64_t { NONE, LAYER, RMS, HEADS };  // HEADS: LAYER of each head, with weights of its own
enum class MlpKind : int64_t { NONE, GELU, GELU_EXACT, RELU, RELU2, SWIGLU, GEGLU };
constexpr int64_t UNROTATED = -1, ROTATIONS = 2;

struct Norm {
  NormKind kind;
  int64_t width;               // numbers that are normalised together
  const float *weight, *bias;  // null: 1, 0
  double eps;
};
struct Layer {
  Norm attn_norm, mlp_norm, q_norm, k_norm, attn_after, mlp_after;
  Linear q, k, v, out, gate, up, down;
  int64_t rotation, window;  // which one of the pass, or UNROTATED; keys that a query sees at most, 0: all
};
struct Model {
  int64_t n_layer, d, h, g, c, f, rotated;  // rotated: channels of a head
  MlpKind mlp;
  int64_t residual, parallel;  // parallel: the MLP reads what attention reads
  int64_t rotated_first;       // heads of queries and keys are normalised after rotation
  int64_t bf16;                // the format of embed and table
  int64_t vocab, context;      // their rows
  int64_t adapters;            // of layers that have any
  const void *embed, *table;   // (V, d), (context, d) or null
  const float* slopes;         // (h), of alibi
  double embed_scale, residual_scale, attn_scale, attn_cap;
  Norm embed_norm, final_norm;
  const Layer* layers;
};
struct Memory {  // keys and values of a layer: (b, g, capacity, c) each, or pages of a pool (paged.h)
  void *keys, *values;
  int64_t capacity, begin;  // begin: the position of the first that is kept; both 0 for pages
};
struct Rotation {
  const float* frequency;  // (rotated / 2)
  double scale;
};
struct Pass {
  int64_t b, t, length, cache_bf16;
  const int64_t *ids, *positions;     // (b, t), (b, t)
  int64_t pages, longest;            // in the pool, in a table
  const int64_t *tables, *lengths;   // (b, longest), (b): each row's pages and its `length`; null: one length, no pages
  const Memory* memories;                    // (n_layer)
  Rotation rotations[ROTATIONS];
  const float* weights;  // (adapters, b): how much each adapter counts in each row; null: none does
  float* hidden;         // (b, t, d): the result
};

constexpr int64_t OK = -1, UNSUPPORTED = -2;

static bool supported(const Norm& n, int64_t width) {
  const bool known = n.kind == NormKind::LAYER || n.kind == NormKind::RMS;
  return n.kind == NormKind::NONE || (known && n.width == width);
}
static bool supported_of_heads(const Norm& n, int64_t width, int64_t c) {
  return n.kind == NormKind::HEADS ? n.width == width && n.weight : supported(n, c) || supported(n, width);
}
static bool gated(MlpKind kind) { return kind == MlpKind::SWIGLU || kind == MlpKind::GEGLU; }

// Whether the page tables name pages of the pool, as many as all tokens take.
static bool supported_pages(const Pass& pass, int64_t c) {
  if (!pass.lengths || (pass.cache_bf16 && c % 2)) return false;
  for (int64_t r = 0; r < pass.b; r++) {
    const int64_t length = pass.lengths[r], used = (length + pass.t + 15) / 16;
    if (length < 0 || used > pass.longest) return false;
    for (int64_t i = 0; i < used; i++)
      if (uint64_t(pass.tables[r * pass.longest + i]) >= uint64_t(pass.pages)) return false;
  }
  return true;
}

// Whether every choice is one that step.cpp implements, and every size what the others ask for. Layers that read the
// same vectors have weights that take them in the same words, as these are packed once.
static bool supported(const Model& model, const Pass& pass) {
  const int64_t d = model.d, f = model.f, queries = model.h * model.c, keys = model.g * model.c;
  const bool mlp = model.mlp != MlpKind::NONE, gate = gated(model.mlp);
  const auto is = [&](const Linear& w, int64_t out, int64_t in, const Linear& like) {
    for (int64_t k = 0; w.adapters && k < model.adapters; k++)
      if (const Adapter& y = w.adapters[k]; y.rank < 0 || (y.rank && (!y.a || !y.b))) return false;
    return w.valid() && w.out == out && w.in == in && w.reads_like(like);
  };
  bool all = int64_t(model.mlp) >= 0 && model.mlp <= MlpKind::GEGLU && supported(model.embed_norm, d) && supported(model.final_norm, d) &&
             model.rotated >= 0 && model.rotated <= model.c && model.rotated % 2 == 0 &&
             (!pass.tables || supported_pages(pass, model.c));
  for (int64_t l = 0; l < model.n_layer && all; l++) {
    const Layer& y = model.layers[l];
    for (const Norm* n : {&y.attn_norm, &y.mlp_norm, &y.attn_after, &y.mlp_after}) all = all && supported(*n, d);
    all = all && supported_of_heads(y.q_norm, queries, model.c) && supported_of_heads(y.k_norm, keys, model.c);
    all = all && is(y.q, queries, d, y.q) && is(y.k, keys, d, y.q) && is(y.v, keys, d, y.q);
    all = all && is(y.out, d, queries, y.out) && (!mlp || (is(y.up, f, d, y.up) && is(y.down, d, f, y.down)));
    all = all && (!gate || is(y.gate, f, d, y.up)) && y.window >= 0;
    all = all && y.rotation >= UNROTATED && y.rotation < ROTATIONS;
    all = all && (y.rotation == UNROTATED || pass.rotations[y.rotation].frequency);
    if (pass.tables) continue;
    const Memory& memory = pass.memories[l];  // has room, and still what the first query sees
    const int64_t first = y.window ? std::max<int64_t>(0, pass.length - y.window + 1) : 0;
    all = all && pass.length + pass.t - memory.begin <= memory.capacity && memory.begin >= 0 && memory.begin <= first;
  }
  return all;
}

// The index of the first token whose id or position lies outside its table, else OK.
static int64_t first_outside(const Model& model, const Pass& pass) {
  for (int64_t i = 0; i < pass.b * pass.t; i++)
    if (uint64_t(pass.ids[i]) >= uint64_t(model.vocab) ||
        (model.table && uint64_t(pass.positions[i]) >= uint64_t(model.context)))
      return i;
  return OK;
}

}  // namespace fathom
