#include "real/weights.h"

#include "real/kernels.h"
#include "sim/check.h"

namespace reckon::real {

namespace {

bool uses_embedding(const plan::ModelShape& m, const plan::ChunkLayout& c) {
  return c.embedding || c.mtp > 0 || (m.tied_embeddings && c.head);
}

Ref ref(const ChunkWeights& c, const std::string& name) {
  if (!c.table.has(name)) return {};
  const Param& p = c.table.at(name);
  const Flat& f = c.of(p);
  return {f.weights.floats() + p.offset, f.grads.floats() + p.offset};
}

}  // namespace

Weights::Weights(const plan::ModelShape& model, const plan::Plan& plan, const Place& place,
                 const std::vector<int>& chunks, const Recipe& recipe, Meter& meter) {
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
      flat->weights = Tensor(meter, count, Holds::Weights);
      flat->grads = Tensor::zeros(meter, count, Holds::Gradients);
    }
    for (const Param& p : c.table.params) {
      float* w = c.of(p).weights.floats() + p.offset;
      initialise(p, recipe.seed, recipe.init_std, w);
    }
    bind(c, model, layout, meter);
  }
}

void Weights::bind(ChunkWeights& c, const plan::ModelShape& model, const plan::ChunkLayout& layout,
                   Meter& meter) {
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
    if (r.router.w != nullptr) {
      const std::int64_t n = model.moe->experts;
      RouterState& state = routers_.emplace_back(
          RouterState{prefix + "router.bias", Tensor::zeros(meter, n, Holds::Weights),
                      Tensor::zeros(meter, n, Holds::Buffers)});
      r.router_bias = state.bias.floats(), r.load = state.load.floats();
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
