// All blocks of a model for several tokens in one call: `Transformer.hidden` of model/transformer.py without the
// overhead of hundreds of operators, and without allocating. backend/step.py fills the structures; a test compares both.
//
// All threads go through the blocks together. Each computes its own rows of every matrix and its own heads, with five
// barriers a block, a few more where norms follow a layer. Cheap work (norms, packing the words of few inputs) is repeated by every thread instead of shared.
#ifdef _OPENMP
#include <omp.h>
#endif
#include "paged.h"
#include "parts.h"
#include "step.h"

using namespace fathom;

struct Range {
  int64_t begin, end;
};

// Buffers shared by all threads of a call and kept for the next.
struct Shared {
  std::vector<float> x, q, k, v, z, gate, up;  // (m, d), (m, h c), (m, g c) twice, (m, h c), (m, f) twice
  std::vector<float> update;                   // (m, d): what is normalised before it enters the stream
  std::vector<float> cos_sin[ROTATIONS];       // (m, rotated): cosines, sines
  Input input;                                 // where there are MANY tokens
  std::vector<float> read;                     // the same before it was packed, for adapters
};
constexpr int64_t MANY = 16;  // tokens from which on the threads share the packing of inputs
struct Local {  // buffers of one thread
  Input input;
  std::vector<float> read, row;
  Rows rows;
};

class Worker {  // one thread's part of the computation
 public:
  Worker(const Model& model, const Pass& pass, Shared& shared, Local& local, int thread, int threads)
      : model(model), pass(pass), shared(shared), local(local), thread(thread), threads(threads), m(pass.b * pass.t) {}

  void run() {
    embed();
    for (int64_t l = 0; l < model.n_layer; l++) block(l, model.layers[l]);
    for (int64_t i = share(m).begin; i < share(m).end; i++) {
      float* x = &shared.x[size_t(i * model.d)];
      if (model.final_norm.kind == NormKind::NONE) std::memcpy(pass.hidden + i * model.d, x, size_t(model.d) * 4);
      else norm(model.final_norm, x, pass.hidden + i * model.d);
    }
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

  void block(int64_t l, const Layer& layer) {
    const bool mlp = model.mlp != MlpKind::NONE;
    pack(layer.q, shared.x.data(), model.d, layer.attn_norm);
    multiply(layer.q, shared.q.data()), multiply(layer.k, shared.k.data()), multiply(layer.v, shared.v.data());
    if (mlp && model.parallel) {
      if (m >= MANY) barrier();  // all have read the packed input
      widen(layer);
    }
    barrier();
    normalise_whole(layer);
    attention(l, layer);
    barrier();
    pack(layer.out, shared.z.data(), model.h * model.c, {});
    join(layer.out, layer.attn_after);
    if (!mlp) return;
    if (!model.parallel) {
      widen(layer);
      barrier();
    }
    pack(layer.down, shared.up.data(), model.f, {});
    join(layer.down, layer.mlp_after);
  }

  void embed() {
    const int64_t d = model.d, half = model.rotated / 2;
    for (int64_t i = share(m).begin; i < share(m).end; i++) {
      float* x = &shared.x[size_t(i * d)];
      fetch(model.embed, model.bf16, pass.ids[i] * d, d, x);
      for (int64_t j = 0; j < d; j++) x[j] *= float(model.embed_scale);
      if (model.embed_norm.kind != NormKind::NONE) norm(model.embed_norm, x, x);
      if (model.table) {
        local.row.resize(size_t(d));
        fetch(model.table, model.bf16, pass.positions[i] * d, d, local.row.data());
        for (int64_t j = 0; j < d; j++) x[j] += local.row[size_t(j)];
      }
      for (int64_t which = 0; which < ROTATIONS; which++) {
        const Rotation& rotation = pass.rotations[which];
        float* cos = shared.cos_sin[which].data() + i * model.rotated;
        for (int64_t j = 0; j < half && rotation.frequency; j++) {
          const float angle = float(pass.positions[i]) * rotation.frequency[j];
          cos[j] = std::cos(angle) * float(rotation.scale), cos[half + j] = std::sin(angle) * float(rotation.scale);
        }
      }
    }
    barrier();
  }

  // Each thread packs few tokens for itself; of MANY tokens it packs a share, at the price of one more barrier.
  Input& input() { return m >= MANY ? shared.input : local.input; }
  std::vector<float>& read() { return m >= MANY ? shared.read : local.read; }  // (m, n)

  // Packs x (m, n), normalised, for products with `w`.
  void pack(const Linear& w, const float* x, int64_t n, const Norm& normalise) {
    const bool many = m >= MANY;
    Input& to = input();
    if (!many) to.reserve(w, m);
    if (!many && pass.weights) read().resize(size_t(m * n));
    local.row.resize(size_t(n));
    int64_t tile = 0;
    for (int64_t first = 0, T; first < m; first += T) {
      T = tile_at(w, m - first);
      if (many && tile++ % threads != thread) continue;
      for (int64_t i = 0; i < T; i++) {
        const float* row = x + (first + i) * n;
        if (normalise.kind != NormKind::NONE) norm(normalise, row, local.row.data()), row = local.row.data();
        to.pack(w, row, first, int(T), int(i));
        if (pass.weights) std::memcpy(&read()[size_t((first + i) * n)], row, size_t(n) * 4);
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
    if (adapted(w)) adapt(w, y);
  }

  bool adapted(const Linear& w) const { return pass.weights && w.adapters; }

  // The numbers of W x that this thread computes.
  Range numbers(const Linear& w) const {
    return {share(w.panels()).begin * 16, std::min(share(w.panels()).end * 16, w.out)};
  }

  // Adds to these of y (m, out) what adapters change: weight scale b a x, where the weight is not 0.
  void adapt(const Linear& w, float* y) {
    const Range own = numbers(w);
    for (int64_t i = 0; i < m; i++)
      for (int64_t k = 0; k < model.adapters; k++) {
        const Adapter& adapter = w.adapters[k];
        const float weight = pass.weights[k * pass.b + i / pass.t];
        for (int64_t j = 0; weight != 0 && j < adapter.rank; j++) {
          const float low = total_of_products(adapter.a + j * w.in, &read()[size_t(i * w.in)], w.in);
          const float factor = low * float(adapter.scale) * weight, *b = adapter.b + j * w.out;
          for (int64_t r = own.begin; r < own.end; r++) y[i * w.out + r] += factor * b[r];
        }
      }
  }

  // W x enters the residual stream; what is normalised first must be there as a whole.
  void join(const Linear& w, const Norm& after) {
    if (after.kind == NormKind::NONE && adapted(w)) {
      multiply(w, shared.update.data());
      const Range own = numbers(w);
      for (int64_t i = 0; i < m && own.begin < own.end; i++) {
        const size_t at = size_t(i * w.out + own.begin);
        enter(&shared.x[at], &shared.update[at], own.end - own.begin);
      }
    } else if (after.kind != NormKind::NONE) {
      multiply(w, shared.update.data());
      barrier();
      for (int64_t i = share(m).begin; i < share(m).end; i++) {
        float* update = &shared.update[size_t(i * model.d)];
        norm(after, update, update);
        enter(&shared.x[size_t(i * model.d)], update, model.d);
      }
    } else {
      product(w, input(), m, share(w.panels()).begin, share(w.panels()).end,
              [&](int64_t i, int64_t r, const float* values, int64_t n) {
                enter(&shared.x[size_t(i * w.out + r)], values, n);
              });
    }
    barrier();
  }

  // Without residual connections an update replaces the stream.
  void enter(float* x, const float* update, int64_t n) {
    const float scale = float(model.residual_scale);
    for (int64_t j = 0; j < n; j++) x[j] = model.residual ? x[j] + scale * update[j] : update[j];
  }

  // The activations of the MLP: this thread's, of the rows that it computes itself, so that no barrier is needed.
  void widen(const Layer& layer) {
    pack(layer.up, shared.x.data(), model.d, layer.mlp_norm);
    if (gated(model.mlp)) multiply(layer.gate, shared.gate.data());
    multiply(layer.up, shared.up.data());
    const Range own = numbers(layer.up);
    for (int64_t i = 0; i < m && own.begin < own.end; i++) {
      const size_t at = size_t(i * model.f + own.begin);
      activate(model.mlp, &shared.up[at], &shared.gate[at], own.end - own.begin);
    }
  }

  static bool of_all(const Norm& n) { return n.kind != NormKind::NONE && n.kind != NormKind::HEADS; }

  // Norms of all heads of a query or key as one vector.
  void normalise_whole(const Layer& layer) {
    const auto whole = [&](const Norm& n) { return of_all(n) && n.width != model.c; };
    if (!whole(layer.q_norm) && !whole(layer.k_norm)) return;
    for (int64_t i = share(m).begin; i < share(m).end; i++) {
      float *q = &shared.q[size_t(i * model.h * model.c)], *k = &shared.k[size_t(i * model.g * model.c)];
      if (whole(layer.q_norm)) norm(layer.q_norm, q, q);
      if (whole(layer.k_norm)) norm(layer.k_norm, k, k);
    }
    barrier();
  }

  // A task is the query heads that share a key and value head in one row; with more threads than tasks, a part of them.
  // Threads take them by turns, as long rows have more work than short ones.
  void attention(int64_t l, const Layer& layer) {
    const int64_t group = model.h / model.g, pairs = pass.b * model.g;
    const int64_t parts = std::min<int64_t>(group, (threads + pairs - 1) / pairs);
    for (int64_t pair = thread; pair < pairs; pair += threads) {
      append(l, layer, pair);
      if (parts == 1) attend_heads(l, layer, pair, {0, group});
    }
    if (parts == 1) return;
    barrier();
    for (int64_t task = thread; task < pairs * parts; task += threads)
      attend_heads(l, layer, task / parts, {group * (task % parts) / parts, group * (task % parts + 1) / parts});
  }

  // Stores keys and values of the new tokens in the cache.
  void append(int64_t l, const Layer& layer, int64_t pair) {
    const int64_t r = pair / model.g, j = pair % model.g;
    for (int64_t i = 0; i < pass.t; i++) {
      const int64_t at = r * pass.t + i, from = (at * model.g + j) * model.c;
      norm_and_rotate(of_head(layer.k_norm, j), layer.rotation, &shared.k[size_t(from)], at);
      if (pass.cache_bf16) write<uint16_t>(l, r, j, length(r) + i, from);
      else write<float>(l, r, j, length(r) + i, from);
    }
  }

  // The norm of one head: of those that have weights of their own, with that head's.
  Norm of_head(const Norm& n, int64_t head) const {
    if (n.kind != NormKind::HEADS) return n;
    return {NormKind::LAYER, model.c, n.weight + head * model.c, nullptr, n.eps};
  }

  void norm_and_rotate(const Norm& n, int64_t rotation, float* x, int64_t at) {
    const bool each = n.kind != NormKind::NONE && n.width == model.c;
    if (each && !model.rotated_first) norm(n, x, x);
    if (rotation != UNROTATED) rotate(x, shared.cos_sin[rotation].data() + at * model.rotated, model.rotated);
    if (each && model.rotated_first) norm(n, x, x);
  }

  // Tokens of row r that were read before this pass.
  int64_t length(int64_t r) const { return pass.tables ? pass.lengths[r] : pass.length; }

  // The offset in the keys or values of layer l of number s of head j in row r.
  int64_t place(int64_t l, int64_t r, int64_t j, int64_t s) const {
    const Memory& memory = pass.memories[l];
    return ((r * model.g + j) * memory.capacity + s - memory.begin) * model.c;
  }

  template <class T>
  Pages<T> pages(int64_t l, int64_t r, int64_t j) const {
    const int64_t size = PAGE * model.c;
    const Memory& memory = pass.memories[l];
    return {pass.tables + r * pass.longest, (T*)memory.keys + j * size, (T*)memory.values + j * size, model.g * size};
  }

  // Stores key and value of token s, which begin at number `from` of all.
  template <class T>
  void write(int64_t l, int64_t r, int64_t j, int64_t s, int64_t from) {
    const float *key = &shared.k[size_t(from)], *value = &shared.v[size_t(from)];
    if (pass.tables) return fathom::write(pages<T>(l, r, j), s, model.c, key, value);
    const int64_t at = place(l, r, j, s);
    T *keys = (T*)pass.memories[l].keys + at, *values = (T*)pass.memories[l].values + at;
    for (int64_t i = 0; i < model.c; i++) put(keys + i, key[i]), put(values + i, value[i]);
  }

  // The first key that the query at `self` sees.
  static int64_t first_key(const Layer& layer, int64_t self) {
    return layer.window ? std::max<int64_t>(0, self - layer.window + 1) : 0;
  }

  // softmax(scale q k) v of the query heads `heads` of a group, for as many queries at once as fill the lanes.
  void attend_heads(int64_t l, const Layer& layer, int64_t pair, Range heads) {
    const int64_t r = pair / model.g, j = pair % model.g, c = model.c, n = heads.end - heads.begin;
    const int64_t at_once = queries_at_once(n);
    Rows& rows = local.rows;
    for (int64_t first = 0; first < pass.t; first += at_once) {
      const int64_t last = std::min(first + at_once, pass.t), sees = first_key(layer, length(r) + first);
      const int64_t start = pass.tables ? sees / PAGE * PAGE : sees;
      rows.resize((last - first) * n, c), rows.scale = float(model.attn_scale), rows.cap = float(model.attn_cap);
      for (int64_t i = first, row = 0; i < last; i++)
        for (int64_t a = 0; a < n; a++, row++) {
          float* q = query(shared.q, r, i, j, heads.begin + a);
          norm_and_rotate(of_head(layer.q_norm, j * (model.h / model.g) + heads.begin + a), layer.rotation, q, r * pass.t + i);
          std::memcpy(&rows.q[size_t(row * c)], q, size_t(c) * 4);
          rows.first[size_t(row)] = first_key(layer, length(r) + i) - start;
          rows.seen[size_t(row)] = length(r) + i + 1 - start;
          if (model.slopes) rows.slope[size_t(row)] = model.slopes[j * (model.h / model.g) + heads.begin + a];
        }
      if (pass.cache_bf16) attend_from<uint16_t>(l, r, j, start);
      else attend_from<float>(l, r, j, start);
      for (int64_t i = first, row = 0; i < last; i++)
        for (int64_t a = 0; a < n; a++, row++)
          std::memcpy(query(shared.z, r, i, j, heads.begin + a), &rows.z[size_t(row * c)], size_t(c) * 4);
    }
  }

  // The rows attend to head j of row r from key `start` on.
  template <class T>
  void attend_from(int64_t l, int64_t r, int64_t j, int64_t start) {
    if (pass.tables) return attend(pages<T>(l, r, j), start / PAGE, model.c, local.rows);
    const Memory& memory = pass.memories[l];
    const int64_t at = place(l, r, j, start);
    attend((T*)memory.keys + at, (T*)memory.values + at, model.c, local.rows);
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
  if (!supported(*model, *pass)) return UNSUPPORTED;
  if (const int64_t wrong = first_outside(*model, *pass); wrong != OK) return wrong;
  Shared& shared = kept_shared();
  std::vector<Local>& locals = kept_locals();
  const size_t m = size_t(pass->b * pass->t), c = size_t(model->c);
  shared.x.resize(m * size_t(model->d));
  shared.q.resize(m * size_t(model->h) * c), shared.z.resize(m * size_t(model->h) * c);
  shared.k.resize(m * size_t(model->g) * c), shared.v.resize(m * size_t(model->g) * c);
  shared.gate.resize(m * size_t(model->f)), shared.up.resize(m * size_t(model->f));
  shared.update.resize(m * size_t(model->d));
  if (pass->weights) shared.read.resize(m * std::max({size_t(model->d), size_t(model->h) * c, size_t(model->f)}));
  for (auto& each : shared.cos_sin) each.resize(m * size_t(model->rotated));
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
