// Arguments -> plan and model: the way back of megatron_emit.cc.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "planner/launch/megatron.h"
#include "planner/launch/megatron_modules.h"

namespace reckon::plan::launch {

namespace {

[[noreturn]] void fail(const std::string& file, const std::string& what) {
  throw InputError(fmt::format("{}: {}", file, what));
}

ModelShape imported_model(const MegatronArgs& a, const std::string& file) {
  ModelShape m;
  m.layers = a.layers, m.hidden = a.hidden, m.heads = a.heads;
  for (const auto& [flag, value] :
       {std::pair("--num-layers", a.layers), std::pair("--hidden-size", a.hidden),
        std::pair("--num-attention-heads", a.heads), std::pair("--seq-length", a.seq),
        std::pair("--micro-batch-size", a.micro_batch)})
    if (value < 1) fail(file, fmt::format("expected {} with a positive number", flag));
  m.vocab = a.vocab.value_or(0);
  m.tied_embeddings = !a.untie_embeddings;
  m.mlp = a.swiglu ? Mlp::SwiGlu : a.squared_relu ? Mlp::SquaredRelu : Mlp::Gelu;
  m.norm = a.normalization == "RMSNorm" ? Norm::RmsNorm : Norm::LayerNorm;
  if (a.positions == "rope" || a.positions == "yarn") {
    m.positions = Positions::Rope;
  } else if (a.positions == "learned_absolute") {
    m.positions = Positions::Learned;
    m.max_positions = a.max_positions;
  } else if (a.positions == "none") {
    m.positions = Positions::None;
  } else {
    fail(file, fmt::format("--position-embedding-type {} is not modelled", a.positions));
  }
  m.linear_bias = a.linear_bias;
  m.qkv_bias = a.qkv_bias;
  m.kv_heads = m.heads;
  if (a.mla) {
    m.mla = Mla{.q_lora = a.q_lora.value_or(0),
                .kv_lora = a.kv_lora.value_or(512),
                .qk_nope = a.qk_head_dim.value_or(128),
                .qk_rope = a.qk_pos_dim.value_or(64),
                .v = a.v_head_dim.value_or(128)};
  } else {
    m.head_dim = a.kv_channels.value_or(a.hidden / a.heads);
    if (a.grouped_queries) m.kv_heads = a.query_groups.value_or(1);
    m.qk_norm = a.qk_layernorm;
  }
  const auto pattern = [&](const std::string& text, const char* flag) {
    const auto bits = read_pattern(text, a.layers);
    if (!bits || static_cast<int>(bits->size()) != a.layers)
      fail(file,
           fmt::format("{}: expected a pattern of {} layers, got \"{}\"", flag, a.layers, text));
    return *bits;
  };
  if (a.window) {
    const int before = std::atoi(a.window->c_str() + (a.window->starts_with("(") ? 1 : 0));
    if (before < 1) fail(file, fmt::format("--window-size: can't read \"{}\"", *a.window));
    std::vector<bool> windowed(static_cast<std::size_t>(a.layers), true);
    if (a.window_freq) {
      const bool number = a.window_freq->find_first_not_of("0123456789") == std::string::npos;
      // A number n: every n-th layer sees everything.
      if (number)
        for (int l = 0; l < a.layers; ++l)
          windowed[static_cast<std::size_t>(l)] =
              (l + 1) % std::max(1, std::atoi(a.window_freq->c_str())) != 0;
      else
        windowed = pattern(*a.window_freq, "--window-attn-skip-freq");
    }
    for (bool w : windowed) m.windows.push_back(w ? before + 1 : 0);
  }
  if (a.experts) {
    Moe e;
    e.experts = *a.experts;
    e.top_k = a.top_k.value_or(2);
    e.ffn = a.moe_ffn.value_or(a.ffn.value_or(4 * a.hidden));
    e.shared_ffn = a.shared_ffn.value_or(0);
    e.shared_gate = a.shared_gate;
    e.score =
        a.score.value_or("softmax") == "softmax" ? RouterScore::Softmax : RouterScore::Sigmoid;
    if (a.group_topk) e.groups = a.groups.value_or(1), e.limited_groups = *a.group_topk;
    e.expert_bias = a.linear_bias;
    e.layers = pattern(a.moe_layer_freq.value_or("1"), "--moe-layer-freq");
    m.moe = e;
  }
  const bool has_dense =
      !m.moe || std::count(m.moe->layers.begin(), m.moe->layers.end(), false) > 0;
  if (has_dense || a.ffn != a.moe_ffn) m.ffn = a.ffn.value_or(4 * a.hidden);
  m.mtp_depth = a.mtp.value_or(0);
  return m;
}

Precision imported_precision(const MegatronArgs& a, const std::string& file) {
  if (a.fp4_format) fail(file, "--fp4-format: fp4 is not modelled");
  if (a.fp8_format) {
    const std::string recipe = a.fp8_recipe.value_or("delayed");
    if (recipe == "mxfp8") return Precision::Mxfp8;
    if (recipe == "blockwise") return Precision::Fp8DeepSeek;
    if (recipe == "custom") fail(file, "--fp8-recipe custom is not modelled");
    return Precision::Fp8;
  }
  return a.bf16 ? Precision::Bf16 : a.fp16 ? Precision::Fp16 : Precision::Fp32;
}

Recompute imported_recompute(const MegatronArgs& a, const std::string& file) {
  if (a.recompute == "full") {
    const bool block = a.recompute_method == "block";
    return {.mode = Recompute::Mode::Full,
            .full_layers = block ? a.recompute_layers.value_or(1) : 0};
  }
  if (a.recompute != "selective" && !a.recompute_activations) return {};
  Recompute r{.mode = Recompute::Mode::Selective};
  for (const std::string& name : a.recompute_modules) {
    const auto known = std::find_if(std::begin(kRecomputeNames), std::end(kRecomputeNames),
                                    [&](const RecomputeName& n) { return name == n.name; });
    if (known == std::end(kRecomputeNames))
      fail(file, fmt::format("--recompute-modules {} is not modelled", name));
    r.modules |= known->bit;
  }
  if (r.modules == 0) r.modules = kCoreAttention;  // the default of --recompute-modules
  return r;
}

// Layers per chunk where no layout is given: even, with the ends that count as layers.
std::vector<ChunkLayout> even_layout(const MegatronArgs& a, int vpp) {
  const auto chunks = static_cast<std::size_t>(a.pp * vpp);
  std::vector<ChunkLayout> layout(chunks);
  const int counted = a.layers + (a.account_for_embedding ? 1 : 0) + (a.account_for_loss ? 1 : 0);
  const int given = (a.first_stage_layers ? 1 : 0) + (a.last_stage_layers ? 1 : 0);
  const int rest = a.layers - a.first_stage_layers.value_or(0) - a.last_stage_layers.value_or(0);
  for (std::size_t i = 0; i < chunks; ++i) {
    const int stage = static_cast<int>(i) % a.pp;
    int of_stage = counted / a.pp;
    if (given > 0) {
      of_stage = a.pp > given ? rest / (a.pp - given) : 0;
      if (stage == 0 && a.first_stage_layers) of_stage = *a.first_stage_layers;
      if (stage == a.pp - 1 && a.last_stage_layers) of_stage = *a.last_stage_layers;
    }
    layout[i].layers = of_stage / vpp;
  }
  if (a.account_for_embedding) --layout.front().layers;
  if (a.account_for_loss) --layout.back().layers;
  layout.front().embedding = true;
  layout.back().head = true;
  layout.back().mtp = a.mtp.value_or(0);
  return layout;
}

std::vector<ChunkLayout> imported_layout(const MegatronArgs& a, int vpp, const std::string& file) {
  std::vector<ChunkLayout> layout;
  for (const PipelineStage& s : a.layout)
    layout.push_back({.layers = s.layers, .embedding = s.embedding, .head = s.loss, .mtp = s.mtp});
  if (layout.empty()) layout = even_layout(a, vpp);
  int first = 0;
  for (ChunkLayout& c : layout) {
    c.first_layer = first;
    first += c.layers;
  }
  if (first != a.layers)
    fail(file, fmt::format("the stages hold {} of {} layers", first, a.layers));
  if (!layout.front().embedding || !layout.back().head)
    fail(file, "the pipeline layout must begin with E and end with L");
  return layout;
}

Zero imported_zero(const MegatronArgs& a) {
  if (a.torch_fsdp2) return Zero::Full;
  if (!a.megatron_fsdp) return a.distributed_optimizer ? Zero::Optimizer : Zero::None;
  const std::string s = a.sharding.value_or("optim_grads_params");
  return s == "no_shard"      ? Zero::None
         : s == "optim"       ? Zero::Optimizer
         : s == "optim_grads" ? Zero::Gradients
                              : Zero::Full;
}

}  // namespace

MegatronImport import_megatron(const MegatronArgs& a, const MegatronWorld& world,
                               const std::string& file) {
  if (a.weight_shards && *a.weight_shards != a.tp)
    fail(file, "--tensor-parallel-num-weight-shards: weight gathering is not modelled");
  if (a.cpu_offload) fail(file, "--optimizer-cpu-offload: offload is not modelled");
  if (a.capacity_factor)
    fail(file, "--moe-expert-capacity-factor: dropped tokens are not modelled");
  MegatronImport out;
  out.model = imported_model(a, file);
  const MegatronSizes sizes = megatron_sizes(a, world);
  out.step = {.seq = a.seq, .global_batch = a.global_batch};
  out.steps = a.train_iters     ? *a.train_iters
              : a.train_samples ? (*a.train_samples + a.global_batch - 1) / a.global_batch
                                : 0;
  Plan p;
  p.tp = a.tp, p.pp = a.pp, p.cp = a.cp, p.ep = a.experts ? a.ep : 1;
  p.dp = sizes.dp;
  p.etp = a.experts ? a.etp.value_or(a.tp) : 1;
  p.vpp = sizes.vpp.value_or(1);
  p.micro_batch = a.micro_batch;
  p.schedule = p.vpp > 1 ? ScheduleKind::Interleaved : ScheduleKind::OneFOneB;
  p.layout = imported_layout(a, p.vpp, file);
  p.recompute = imported_recompute(a, file);
  p.precision = imported_precision(a, file);
  p.zero = imported_zero(a);
  if (a.optimizer_instances.value_or(1) > 1) p.shard_group = p.dp * p.cp / *a.optimizer_instances;
  p.sequence_parallel = a.sequence_parallel;
  p.overlap = {.grad_reduce = a.overlap_grad_reduce,
               .param_gather = a.overlap_param_gather,
               .tp = a.tp_comm_overlap,
               .p2p = p.vpp > 1 && a.overlap_p2p,
               .expert = a.ep_overlap ? Overlap::Expert::OneFOneB : Overlap::Expert::None};
  if (a.dispatcher == "flex") {
    const bool hybrid = a.flex_backend == "hybridep";
    out.dispatcher = hybrid ? hw::Dispatcher::HybridEp : hw::Dispatcher::DeepEp;
    p.comm_sms = a.dispatcher_sms.value_or((hybrid ? a.hybridep_sms : a.deepep_sms).value_or(0));
  }
  out.plan = canonical(p, out.model);
  return out;
}

}  // namespace reckon::plan::launch
