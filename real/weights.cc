#include "real/weights.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "sim/check.h"

namespace reckon::real {

namespace {

Ref ref(const ChunkWeights& c, const std::string& name) {
  if (!c.table.has(name)) return {};
  const Param& p = c.table.at(name);
  const Flat& f = c.of(p);
  return {f.weights.view() + p.offset, f.grads.view() + p.offset};
}

// Starting values of the chunk's parameters, one per core at a time: a model of a billion
// parameters takes one core half a minute.
void fill(ChunkWeights& c, const Recipe& recipe, bool remote) {
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < c.table.params.size(); i = next++) {
      const Param& p = c.table.params[i];
      Flat& f = p.expert ? c.experts : c.dense;
      initialise(p, recipe.seed, recipe.init_std,
                 (remote ? f.start.data() : f.weights.floats()) + p.offset);
    }
  };
  std::vector<std::thread> others;
  if (remote)
    for (unsigned i = 1; i < std::min(16u, std::thread::hardware_concurrency()); ++i)
      others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
}

// A tensor of zeros, on the compute queue.
Tensor zeros(const Weights::Room& room, std::int64_t n, Holds what) {
  Queue& q = room.device.compute();
  Tensor t(room.meter, n, {.what = what, .queue = q.index()});
  q.zero(t.view(), n);
  return t;
}

}  // namespace

Weights::Weights(const plan::ModelShape& model, const plan::Plan& plan, const Place& place,
                 const std::vector<int>& chunks, const Recipe& recipe, const Room& room) {
  const bool remote = room.device.remote();
  const Element element =
      plan.precision == plan::Precision::Fp32 ? Element::Fp32 : room.device.narrow();
  Queue& q = room.device.compute();
  bool embedding_held = false;
  for (int index : chunks) {
    const plan::ChunkLayout& layout = plan.layout[static_cast<std::size_t>(index)];
    ChunkWeights& c = chunks_.emplace_back();
    c.chunk = index;
    c.owns_embedding = !embedding_held && uses_embedding(model, layout);
    embedding_held |= c.owns_embedding;
    c.table = param_table(model, plan, place, layout, c.owns_embedding);
    for (auto [flat, count] : {std::pair{&c.dense, c.table.dense}, {&c.experts, c.table.experts}}) {
      flat->count = count;
      flat->weights = Tensor(room.meter, count,
                             {.element = element, .what = Holds::Weights, .queue = q.index()});
      flat->grads = zeros(room, count, Holds::Gradients);
      if (remote) flat->start.resize(static_cast<std::size_t>(count));
    }
    fill(c, recipe, remote);
    for (Flat* flat : {&c.dense, &c.experts}) {
      if (!remote || element != Element::Fp32) continue;
      q.upload(flat->start.data(), flat->weights.view(), flat->count);
      flat->start = {};
    }
    bind(c, model, layout, room);
  }
}

void Weights::bind(ChunkWeights& c, const plan::ModelShape& model, const plan::ChunkLayout& layout,
                   const Room& room) {
  const bool gated = plan::is_gated(model.mlp);
  for (int part = 0; part < layout.layers + layout.mtp; ++part) {
    const std::string prefix = part_prefix(model, layout, part);
    const auto at = [&](const char* name) { return ref(c, prefix + name); };
    LayerRefs& r = c.parts.emplace_back();
    r.attn_norm = at("attn.norm"), r.attn_norm_bias = at("attn.norm.bias");
    r.mlp_norm = at("mlp.norm"), r.mlp_norm_bias = at("mlp.norm.bias");
    r.q = at("attn.q"), r.k = at("attn.k"), r.v = at("attn.v");
    r.q_bias = at("attn.q.bias"), r.k_bias = at("attn.k.bias"), r.v_bias = at("attn.v.bias");
    r.q_norm = at("attn.q_norm"), r.k_norm = at("attn.k_norm");
    r.q_down = at("attn.q_down"), r.q_up = at("attn.q_up");
    r.kv_down = at("attn.kv_down"), r.kv_norm = at("attn.kv_norm"), r.kv_up = at("attn.kv_up");
    r.out = at("attn.out"), r.out_bias = at("attn.out.bias");
    r.up = at(gated ? "mlp.gate" : "mlp.up"), r.up_bias = at("mlp.up.bias");
    r.down = at("mlp.down"), r.down_bias = at("mlp.down.bias");
    r.router = at("router"), r.experts_up = at("experts.up");
    r.experts_down = at("experts.down");
    r.shared_up = at(gated ? "shared.gate" : "shared.up"), r.shared_down = at("shared.down");
    r.hidden_norm = at("mtp.hidden_norm"), r.hidden_norm_bias = at("mtp.hidden_norm.bias");
    r.embedding_norm = at("mtp.embedding_norm");
    r.embedding_norm_bias = at("mtp.embedding_norm.bias");
    r.projection = at("mtp.projection");
    r.head_norm = at("head.norm"), r.head_norm_bias = at("head.norm.bias");
    if (r.router.w) {
      const std::int64_t n = model.moe->experts;
      RouterState& state = routers_.emplace_back(RouterState{
          prefix + "router.bias", zeros(room, n, Holds::Weights), zeros(room, n, Holds::Buffers)});
      r.router_bias = floats(state.bias.view()), r.load = floats(state.load.view());
    }
  }
  c.head_norm = ref(c, "head.norm"), c.head_norm_bias = ref(c, "head.norm.bias");
  if (c.table.has("embedding")) embedding = ref(c, "embedding");
  if (c.table.has("embedding.positions")) positions = ref(c, "embedding.positions");
  if (c.table.has("head")) head = ref(c, "head");
  if (layout.head && model.tied_embeddings) head = embedding;
}

ChunkWeights& Weights::chunk(int index) {
  for (ChunkWeights& c : chunks_)
    if (c.chunk == index) return c;
  check(false, "a rank runs only the chunks that it holds");
  return chunks_.front();
}

}  // namespace reckon::real
