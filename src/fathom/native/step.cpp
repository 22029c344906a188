// All blocks of a model for several tokens in one call: `Transformer.hidden` of model/transformer.py without the
// overhead of hundreds of operators, and without allocating. backend/step.py fills the structures; a test compares both.
//
// All threads go through the blocks together. Each computes its own rows of every matrix and its own heads, with five
// barriers a block. Cheap work (norms, packing the words of few inputs) is repeated by every thread instead of shared.
#ifdef _OPENMP
#include <omp.h>
#endif
#include "activations.h"
#include "attention.h"
#include "panels.h"
#include "step.h"

using namespace fathom;

static void norm(const Norm& n, const float* x, int64_t d, float* y) {
  float mean = 0, square = 0;
  if (n.kind == NormKind::NONE) return void(std::memcpy(y, x, size_t(d) * 4));
  if (n.kind == NormKind::LAYER) {
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < d; i++) mean += x[i];
    mean /= float(d);
  }
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < d; i++) square += (x[i] - mean) * (x[i] - mean);
  const float scale = 1 / std::sqrt(square / float(d) + float(n.eps));
#pragma omp simd
  for (int64_t i = 0; i < d; i++) y[i] = (x[i] - mean) * scale * n.weight[i] + (n.bias ? n.bias[i] : 0);
}

// In place. Without a default: a kind that has no case does not compile (-Werror=switch).
static void activate(MlpKind kind, float* up, const float* gate, int64_t n) {
  switch (kind) {
    case MlpKind::NONE: return;
    case MlpKind::GELU:
#pragma omp simd
      for (int64_t i = 0; i < n; i++) up[i] = gelu(up[i]);
      return;
    case MlpKind::RELU2:
      for (int64_t i = 0; i < n; i++) up[i] = relu2(up[i]);
      return;
    case MlpKind::SWIGLU:
#pragma omp simd
      for (int64_t i = 0; i < n; i++) up[i] *= silu(gate[i]);
      return;
  }
}

// Channels i and i + c/2 are the coordinates of a point, rotated by its angle.
static void rotate(float* x, const float* cos_sin, int64_t c) {
  const float *cos = cos_sin, *sin = cos_sin + c / 2;
  for (int64_t i = 0; i < c / 2; i++) {
    float first = x[i], second = x[i + c / 2];
    x[i] = first * cos[i] - second * sin[i];
    x[i + c / 2] = second * cos[i] + first * sin[i];
  }
}

struct Range {
  int64_t begin, end;
};

// Buffers shared by all threads of a call and kept for the next.
struct Shared {
  std::vector<float> x, q, k, v, z, gate, up;  // (m, d), (m, h c), (m, g c) twice, (m, h c), (m, f) twice
  std::vector<float> cos_sin;                  // (m, c): cosines, sines
  Input input;                                 // where there are MANY tokens
};
constexpr int64_t MANY = 16;  // tokens from which on the threads share the packing of inputs
struct Local {  // buffers of one thread
  Input input;
  std::vector<float> row;
  Rows rows;
};

class Worker {  // one thread's part of the computation
 public:
  Worker(const Model& model, const Pass& pass, Shared& shared, Local& local, int thread, int threads)
      : model(model), pass(pass), shared(shared), local(local), thread(thread), threads(threads), m(pass.b * pass.t) {}

  void run() {
    embed();
    for (int64_t l = 0; l < model.n_layer; l++) {
      const Layer& layer = model.layers[l];
      pack(layer.q, shared.x.data(), model.d, &layer.attn_norm);
      multiply(layer.q, shared.q.data()), multiply(layer.k, shared.k.data()), multiply(layer.v, shared.v.data());
      barrier();
      attention(l, layer);
      barrier();
      pack(layer.out, shared.z.data(), model.h * model.c, nullptr);
      multiply_and_add(layer.out);
      barrier();
      if (model.mlp != MlpKind::NONE) mlp(layer);
    }
    for (int64_t i = share(m).begin; i < share(m).end; i++)
      norm(model.final_norm, &shared.x[size_t(i * model.d)], model.d, pass.hidden + i * model.d);
  }

 private:
  const Model& model;
  const Pass& pass;
  Shared& shared;
  Local& local;
  int thread, threads;
  int64_t m;

  void barrier() {
#pragma omp barrier
  }
  // This thread's part of n items.
  Range share(int64_t n) const { return {n * thread / threads, n * (thread + 1) / threads}; }

  void embed() {
    const int64_t d = model.d, half = model.c / 2;
    for (int64_t i = share(m).begin; i < share(m).end; i++) {
      float* x = &shared.x[size_t(i * d)];
      fetch(model.embed, model.bf16, pass.ids[i] * d, d, x);
      if (model.position == PositionKind::LEARNED) {
        local.row.resize(size_t(d));
        fetch(model.table, model.bf16, pass.positions[i] * d, d, local.row.data());
        for (int64_t j = 0; j < d; j++) x[j] += local.row[size_t(j)];
      }
      for (int64_t j = 0; j < half && model.position == PositionKind::ROPE; j++) {
        float angle = float(pass.positions[i]) * model.frequency[j];
        shared.cos_sin[size_t(i * model.c + j)] = std::cos(angle) * float(model.rope_scale);
        shared.cos_sin[size_t(i * model.c + half + j)] = std::sin(angle) * float(model.rope_scale);
      }
    }
    barrier();
  }

  // One row of a table in fp32 or bf16, as fp32.
  static void fetch(const void* from, bool narrow, int64_t offset, int64_t n, float* to) {
    if (!narrow) return void(std::memcpy(to, (const float*)from + offset, size_t(n) * 4));
    for (int64_t i = 0; i < n; i++) to[i] = from_bf16(((const uint16_t*)from)[offset + i]);
  }

  // Each thread packs few tokens for itself; of MANY tokens it packs a share, at the price of one more barrier.
  Input& input() { return m >= MANY ? shared.input : local.input; }

  // Packs x (m, n), normalised by `normalise` unless null, for products with `w`.
  void pack(const Linear& w, const float* x, int64_t n, const Norm* normalise) {
    const bool many = m >= MANY;
    Input& to = input();
    if (!many) to.reserve(w, m);
    local.row.resize(size_t(n));
    int64_t tile = 0;
    for (int64_t first = 0, T; first < m; first += T) {
      T = tile_at(w, m - first);
      if (many && tile++ % threads != thread) continue;
      for (int64_t i = 0; i < T; i++) {
        const float* row = x + (first + i) * n;
        if (normalise) norm(*normalise, row, n, local.row.data());
        to.pack(w, normalise ? local.row.data() : row, first, int(T), int(i));
      }
    }
    if (many) barrier();
  }

  // This thread's rows of W x, into y (m, out).
  void multiply(const Linear& w, float* y) {
    product(w, input(), m, share(w.panels()).begin, share(w.panels()).end,
            [&](int64_t i, int64_t r, const float* values, int64_t n) {
              std::memcpy(y + i * w.out + r, values, size_t(n) * 4);
            });
  }

  // This thread's rows of W x, added to the residual stream; without residual connections they replace it.
  void multiply_and_add(const Linear& w) {
    product(w, input(), m, share(w.panels()).begin, share(w.panels()).end,
            [&](int64_t i, int64_t r, const float* values, int64_t n) {
              float* x = &shared.x[size_t(i * w.out + r)];
              for (int64_t j = 0; j < n; j++) x[j] = model.residual ? x[j] + values[j] : values[j];
            });
  }

  void mlp(const Layer& layer) {
    pack(layer.up, shared.x.data(), model.d, &layer.mlp_norm);
    if (model.mlp == MlpKind::SWIGLU) multiply(layer.gate, shared.gate.data());
    multiply(layer.up, shared.up.data());
    const Range own = share(layer.up.panels());
    const int64_t begin = own.begin * 16, end = std::min(own.end * 16, model.f);
    for (int64_t i = 0; i < m && begin < end; i++)  // only rows that this thread computed: no barrier needed
      activate(model.mlp, &shared.up[size_t(i * model.f + begin)], &shared.gate[size_t(i * model.f + begin)],
               end - begin);
    barrier();
    pack(layer.down, shared.up.data(), model.f, nullptr);
    multiply_and_add(layer.down);
    barrier();
  }

  // A task is the query heads that share a key and value head in one row; with more threads than tasks, a part of them.
  void attention(int64_t l, const Layer& layer) {
    const int64_t group = model.h / model.g, pairs = pass.b * model.g;
    const int64_t parts = std::min<int64_t>(group, (threads + pairs - 1) / pairs);
    for (int64_t pair = share(pairs).begin; parts == 1 && pair < share(pairs).end; pair++) {
      append(l, layer, pair);
      attend_heads(l, layer, pair, {0, group});
    }
    if (parts == 1) return;
    for (int64_t pair = share(pairs).begin; pair < share(pairs).end; pair++) append(l, layer, pair);
    barrier();
    for (int64_t task = share(pairs * parts).begin; task < share(pairs * parts).end; task++)
      attend_heads(l, layer, task / parts, {group * (task % parts) / parts, group * (task % parts + 1) / parts});
  }

  // Stores keys and values of the new tokens in the cache.
  void append(int64_t l, const Layer& layer, int64_t pair) {
    const int64_t r = pair / model.g, j = pair % model.g, c = model.c;
    for (int64_t i = 0; i < pass.t; i++) {
      const int64_t at = r * pass.t + i;
      float *k = &shared.k[size_t((at * model.g + j) * c)], *v = &shared.v[size_t((at * model.g + j) * c)];
      norm_and_rotate(layer.k_norm, k, at);
      write(place(l, 0, r, j, pass.length + i), k);
      write(place(l, 1, r, j, pass.length + i), v);
    }
  }

  void norm_and_rotate(const Norm& n, float* x, int64_t at) {
    if (n.kind != NormKind::NONE) norm(n, x, model.c, x);
    if (model.position == PositionKind::ROPE) rotate(x, &shared.cos_sin[size_t(at * model.c)], model.c);
  }

  // The offset of key (which = 0) or value (1) s of head j in row r.
  int64_t place(int64_t l, int64_t which, int64_t r, int64_t j, int64_t s) const {
    return ((((l * 2 + which) * pass.b + r) * model.g + j) * pass.capacity + s) * model.c;
  }

  void write(int64_t at, const float* x) {
    for (int64_t i = 0; i < model.c; i++)
      if (pass.cache_bf16) ((uint16_t*)pass.store)[at + i] = to_bf16(x[i]);
      else ((float*)pass.store)[at + i] = x[i];
  }

  // softmax(q k / sqrt(c)) v of the query heads `heads` of a group, for as many queries at once as fill the lanes.
  void attend_heads(int64_t l, const Layer& layer, int64_t pair, Range heads) {
    const int64_t r = pair / model.g, j = pair % model.g, c = model.c, n = heads.end - heads.begin;
    const int64_t at_once = pass.padding ? 1 : queries_at_once(n);
    for (int64_t first = 0; first < pass.t; first += at_once) {
      const int64_t last = std::min(first + at_once, pass.t), self = pass.length + first;
      const int64_t start = pass.padding ? std::min(std::max<int64_t>(pass.padding[r], 0), self) : 0;
      local.rows.resize((last - first) * n, c);
      for (int64_t i = first, row = 0; i < last; i++)
        for (int64_t a = 0; a < n; a++, row++) {
          float* q = query(shared.q, r, i, j, heads.begin + a);
          norm_and_rotate(layer.q_norm, q, r * pass.t + i);
          std::memcpy(&local.rows.q[size_t(row * c)], q, size_t(c) * 4);
          local.rows.seen[size_t(row)] = pass.length + i + 1 - start;
        }
      const int64_t keys = place(l, 0, r, j, start), values = place(l, 1, r, j, start);
      if (pass.cache_bf16) attend((uint16_t*)pass.store + keys, (uint16_t*)pass.store + values, c, local.rows);
      else attend((float*)pass.store + keys, (float*)pass.store + values, c, local.rows);
      for (int64_t i = first, row = 0; i < last; i++)
        for (int64_t a = 0; a < n; a++, row++)
          std::memcpy(query(shared.z, r, i, j, heads.begin + a), &local.rows.z[size_t(row * c)], size_t(c) * 4);
    }
  }

  // Head `a` of group j for query i of row r.
  float* query(std::vector<float>& of, int64_t r, int64_t i, int64_t j, int64_t a) const {
    return &of[size_t(((r * pass.t + i) * model.h + j * (model.h / model.g) + a) * model.c)];
  }
};

// Buffers of the thread that calls, kept for its next call so that a call allocates nothing.
static Shared& kept_shared() {
  static thread_local Shared shared;
  return shared;
}
static std::vector<Local>& kept_locals() {
  static thread_local std::vector<Local> locals;
  return locals;
}

// Reads the tokens of `pass`, fills pass.hidden and the cache, which must have room; the caller moves its length.
// Returns OK; or, with nothing done, UNSUPPORTED or the index of the first token that cannot be looked up.
extern "C" int64_t step(const Model* model, const Pass* pass, int threads) {
  if (!supported(*model)) return UNSUPPORTED;
  if (const int64_t wrong = first_outside(*model, *pass); wrong != OK) return wrong;
  Shared& shared = kept_shared();
  std::vector<Local>& locals = kept_locals();
  const size_t m = size_t(pass->b * pass->t), c = size_t(model->c);
  shared.x.resize(m * size_t(model->d));
  shared.q.resize(m * size_t(model->h) * c), shared.z.resize(m * size_t(model->h) * c);
  shared.k.resize(m * size_t(model->g) * c), shared.v.resize(m * size_t(model->g) * c);
  shared.gate.resize(m * size_t(model->f)), shared.up.resize(m * size_t(model->f)), shared.cos_sin.resize(m * c);
  if (locals.size() < size_t(threads)) locals.resize(size_t(threads));
  for (int64_t l = 0; l < model->n_layer; l++)
    for (const Linear& w : {model->layers[l].q, model->layers[l].out, model->layers[l].up, model->layers[l].down})
      if (w.lines) shared.input.reserve(w, pass->b * pass->t);
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    const int thread = omp_get_thread_num();
    Worker(*model, *pass, shared, locals[size_t(thread)], thread, omp_get_num_threads()).run();
#else
    Worker(*model, *pass, shared, locals[0], 0, 1).run();
#endif
  }
  return OK;
}
