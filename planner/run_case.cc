#include "planner/run_case.h"

#include <algorithm>
#include <cctype>
#include <regex>

#include "hw-models/catalog.h"
#include "planner/words.h"

namespace reckon::plan {

namespace {

// Whether `word` stands alone in the text, not inside a longer name.
bool says_word(const std::string& text, const char* word) {
  return std::regex_search(text,
                           std::regex("(^|[^a-z0-9_])" + std::string(word) + "($|[^a-z0-9_])"));
}

// GPT-2's byte-pair vocabulary of 50,257, padded by Megatron-LM to a multiple of 128.
constexpr std::int64_t kGpt2Vocabulary = 50304;

// What the words say, or the default with a note.
struct Reader {
  const PublishedRun& run;
  const FrameworkDefaults& defaults;
  std::vector<std::string>& assumed;

  void note(const char* what, const std::string& value) const {
    assumed.push_back(std::string(what) + " " + value);
  }

  Recompute recompute(const RunCase& c) const;
  std::variant<Precision, NoCase> precision() const;
  std::variant<Zero, NoCase> zero(int* shard_group) const;
  std::variant<ScheduleKind, NoCase> schedule(const ModelShape& model, Plan& p) const;
  Overlap overlap(const ModelShape& model, const Plan& p) const;
};

std::uint32_t recompute_modules(std::string text) {
  text = lower_case(text.substr(0, text.find("offload")));
  std::uint32_t m = 0;
  if (says(text, "core_attn") || says(text, "core attention")) m |= kCoreAttention;
  if (says(text, "norm")) m |= kNorm;
  if (says_word(text, "moe_act") || says_word(text, "act") || says(text, "activation func"))
    m |= kActivation;
  if (says(text, "mla_up") || says(text, "mla up")) m |= kMlaUp;
  if (says_word(text, "mlp")) m |= kMlp;
  if (says_word(text, "moe")) m |= kMoe;
  if (says(text, "shared_expert")) m |= kSharedExpert;
  return m;
}

Recompute Reader::recompute(const RunCase& c) const {
  const std::string text = lower_case(run.plan.recompute);
  if (text.empty()) {
    Recompute r = defaults.recompute;
    note("recompute", r.mode == Recompute::Mode::Full   ? "full"
                      : r.mode == Recompute::Mode::None ? "none"
                                                        : "selective");
    return r;
  }
  Recompute r;
  if (text.rfind("none", 0) == 0) return r;
  if (text.rfind("full", 0) == 0) {
    r.mode = Recompute::Mode::Full;
    return r;
  }
  r.mode = Recompute::Mode::Selective;
  r.modules = recompute_modules(run.plan.recompute_modules);
  if (r.modules != 0) return r;
  if (says(text, "0 layers")) return {};
  if (c.stack == "torchtitan-2024") {
    // Per-operator checkpointing.
    r.modules = kPerOp;
  } else {
    r.modules = kCoreAttention;  // Megatron's "selective"
  }
  return r;
}

std::variant<Precision, NoCase> Reader::precision() const {
  const std::string text = lower_case(run.plan.precision);
  if (text.empty()) {
    note("precision", "bf16");
    return Precision::Bf16;
  }
  if (says(text, "fp4")) return NoCase{"fp4 products are not modelled"};
  if (says(text, "mxfp8") || says(text, "fp8-mx")) return Precision::Mxfp8;
  if (says(text, "deepseek") || says(text, "block") || says(text, "fp8-sc"))
    return Precision::Fp8DeepSeek;
  if (says(text, "alternative granularity"))  // 25.09 tables: block scales on Hopper, MX beyond
    return says(lower_case(run.gpu), "h") ? Precision::Fp8DeepSeek : Precision::Mxfp8;
  if (says(text, "fp8")) return Precision::Fp8;
  if (says(text, "fp16")) return Precision::Fp16;
  if (says(text, "bf16")) return Precision::Bf16;
  if (says(text, "fp32")) return Precision::Fp32;
  return NoCase{"precision \"" + run.plan.precision + "\" is not understood"};
}

std::variant<Zero, NoCase> Reader::zero(int* shard_group) const {
  const std::string text = lower_case(run.plan.zero);
  if (text.empty()) {
    note("zero", defaults.zero == Zero::None        ? "none"
                 : defaults.zero == Zero::Optimizer ? "1"
                                                    : "3");
    return defaults.zero;
  }
  if (says(text, "offload")) return NoCase{"optimizer state offloaded to the host is not modelled"};
  std::smatch m;
  static const std::regex group(R"((?:group of|fsdp2?|over) (\d{1,6}))");
  if (std::regex_search(text, m, group)) *shard_group = std::stoi(m[1].str());
  if (says(text, "hsdp")) *shard_group = 8;  // sharded inside a node, replicated between nodes
  if (says(text, "grad_op") || says(text, "optimizer states and gradients") || says(text, "zero-2"))
    return Zero::Gradients;
  if (says(text, "fsdp") || says(text, "hsdp") || says(text, "zero-3") || says(text, "full"))
    return says(text, "zero-1") ? Zero::Optimizer : Zero::Full;
  if (says(text, "zero-1") || says(text, "distributed")) return Zero::Optimizer;
  if (says(text, "none")) return Zero::None;
  return NoCase{"ZeRO stage \"" + run.plan.zero + "\" is not understood"};
}

std::variant<ScheduleKind, NoCase> Reader::schedule(const ModelShape& model, Plan& p) const {
  const std::string text = lower_case(run.plan.schedule);
  const bool printed_vpp = run.plan.vpp.has_value();
  p.vpp = std::max(1, run.plan.vpp.value_or(1));
  if (p.pp == 1) {
    p.vpp = 1;
    return ScheduleKind::OneFOneB;
  }
  if (says(text, "pair")) return NoCase{"a fragment of a schedule, not a step"};
  if (says(text, "dualpipev")) return p.vpp = 2, ScheduleKind::DualPipeV;
  if (says(text, "dualpipe")) return p.vpp = 1, ScheduleKind::DualPipe;
  if (says(text, "zb-v") || says(text, "zbv")) return p.vpp = 2, ScheduleKind::ZbV;
  if (says(text, "zb-2p") || says(text, "zb-h2")) return p.vpp = 1, ScheduleKind::ZbH2;
  if (says(text, "zb-1p") || says(text, "zb-h1")) return p.vpp = 1, ScheduleKind::ZbH1;
  if (says(text, "gpipe")) return p.vpp = 1, ScheduleKind::GPipe;
  if (says(text, "interleaved") && !printed_vpp) {
    // Llama 3 (arXiv 2407.21783, section 3.3.2) and the Zero Bubble paper run one layer per chunk.
    p.vpp = std::max(2, (model.layers + p.pp - 1) / p.pp);
    note("vpp", std::to_string(p.vpp) + " (one layer per chunk)");
    return ScheduleKind::Interleaved;
  }
  if (text.empty() && !printed_vpp) note("schedule", "1F1B");
  if (text.empty() || says(text, "1f1b"))
    return p.vpp > 1 ? ScheduleKind::Interleaved : ScheduleKind::OneFOneB;
  return NoCase{"schedule \"" + run.plan.schedule + "\" is not understood"};
}

Overlap Reader::overlap(const ModelShape& model, const Plan& p) const {
  const std::string text = lower_case(run.plan.overlap);
  Overlap o;
  const bool all = says(text, "tp and pp") || says(text, "tp/pp/dp");
  o.grad_reduce = defaults.grad_overlap || all || says(text, "grad");
  o.param_gather = defaults.param_overlap || all || says(text, "param");
  o.tp = defaults.tp_overlap && !model.moe;
  if (all || says(text, "async tp") || says(text, "tp_comm_overlap true")) o.tp = true;
  if (says(text, "none for tp") || says(text, "tp_comm_overlap false")) o.tp = false;
  if (p.tp == 1 || !p.sequence_parallel) o.tp = false;
  o.p2p = p.schedule != ScheduleKind::OneFOneB && p.schedule != ScheduleKind::GPipe;
  if (p.zero == Zero::None) o.param_gather = false;
  if (p.schedule == ScheduleKind::DualPipe || p.schedule == ScheduleKind::DualPipeV) {
    o.expert = Overlap::Expert::Pair;
  } else if (model.moe && p.ep > 1) {
    const bool off = says(text, "no ep") || says(text, "a2a overlap off");
    const bool on = says(text, "ep a2a overlap") || says(text, "ep overlap");
    o.expert = off  ? Overlap::Expert::None
               : on ? Overlap::Expert::OneFOneB
                    : defaults.expert_overlap;
    if (o.expert == Overlap::Expert::Pair) o.expert = Overlap::Expert::None;
    // Megatron-Core: needs pp = 1 or the interleaved schedule, and excludes full recomputation.
    if (p.pp > 1 && p.vpp == 1) o.expert = Overlap::Expert::None;
    if (p.recompute.mode == Recompute::Mode::Full) o.expert = Overlap::Expert::None;
  }
  return o;
}

// 0 where the quotient is not whole.
int quotient(int a, int b) {
  return b > 0 && a % b == 0 ? a / b : 0;
}

}  // namespace

std::variant<ModelShape, NoCase> model_of(const PublishedRun& run) {
  const PublishedModel& m = run.model;
  const std::string attention = lower_case(m.attention), mlp = lower_case(m.mlp);
  const std::string name = lower_case(m.name);
  if (says(attention, "mamba") || says(attention, "delta") || says(attention, "linear att") ||
      says(name, "mamba"))
    return NoCase{"layers other than attention (" + m.attention + ") are not modelled"};
  for (const auto& [value, key] : {std::pair{m.layers, "layers"},
                                   {m.hidden, "hidden"},
                                   {m.heads, "heads"},
                                   {m.seq_len, "seq_len"}})
    if (value.value_or(0) <= 0) return NoCase{std::string("model.") + key + " is not printed"};
  ModelShape s;
  s.name = m.name;
  s.layers = *m.layers;
  s.hidden = *m.hidden;
  s.heads = *m.heads;
  s.kv_heads = m.kv_heads.value_or(s.heads);
  s.head_dim = m.head_dim.value_or(s.hidden / s.heads);
  s.vocab = m.vocab.value_or(kGpt2Vocabulary);
  s.tied_embeddings = m.tied_embeddings.value_or(mlp.empty() || mlp == "gelu");
  s.mtp_depth = m.mtp_layers.value_or(0);
  if (s.kv_heads <= 0 || s.heads % s.kv_heads != 0)
    return NoCase{"model.heads is no multiple of model.kv_heads"};

  const bool gelu_family = mlp.empty() || mlp == "gelu";
  if (mlp.empty() && !m.ffn && !m.experts) return NoCase{"model.ffn and model.mlp are not printed"};
  s.mlp = says(mlp, "swiglu")         ? Mlp::SwiGlu
          : says(mlp, "geglu")        ? Mlp::GeGlu
          : says(mlp, "squared relu") ? Mlp::SquaredRelu
                                      : Mlp::Gelu;
  const bool gated = is_gated(s.mlp);
  if (!m.ffn && !m.experts && gated) return NoCase{"model.ffn is not printed"};
  s.ffn = m.ffn.value_or(4 * s.hidden);
  // GPT-2's line: LayerNorm, learned positions, biases, embedding shared with the head. Llama's
  // line: RMSNorm and rotary positions.
  s.norm = gated ? Norm::RmsNorm : Norm::LayerNorm;
  s.positions = says(attention, "alibi")                  ? Positions::Alibi
                : gelu_family && !says(attention, "rope") ? Positions::Learned
                                                          : Positions::Rope;
  s.linear_bias = gelu_family && !says(name, "mpt");
  s.max_positions = *m.seq_len;
  s.qk_norm = says(name, "qwen3");

  if (says(attention, "mla")) {
    if (!m.kv_lora || !m.qk_nope || !m.qk_rope || !m.v_dim)
      return NoCase{"model.mla is not printed"};
    s.mla = Mla{.q_lora = m.q_lora.value_or(0),
                .kv_lora = *m.kv_lora,
                .qk_nope = *m.qk_nope,
                .qk_rope = *m.qk_rope,
                .v = *m.v_dim};
  }
  if (m.experts.value_or(0) > 0) {
    if (m.top_k.value_or(0) <= 0 || m.moe_ffn.value_or(0) <= 0)
      return NoCase{"model.topk or model.moe_ffn is not printed"};
    Moe e;
    e.experts = *m.experts;
    e.top_k = *m.top_k;
    e.ffn = *m.moe_ffn;
    e.shared_ffn = m.shared_ffn.value_or(0);
    e.shared_gate = says(name, "qwen2");
    const int every = std::max(1, m.moe_every.value_or(1));
    const int dense = every > 1 ? 0 : m.dense_layers.value_or(0);
    for (int l = 0; l < s.layers; ++l) e.layers.push_back(l >= dense && (l + 1) % every == 0);
    if (says(name, "deepseek-v3") || says(name, "kimi")) e.score = RouterScore::Sigmoid;
    // DeepSeek-V3's configuration: 8 groups of experts, 4 of them per token.
    if (says(name, "deepseek-v3")) e.groups = 8, e.limited_groups = 4;
    s.moe = e;
  }
  // Sliding or chunked windows, layer by layer. A chunk of c positions shows a query c/2 keys in
  // the mean, as a window of c/2 does.
  std::smatch w;
  if (says(attention, "chunk")) {
    const int chunk = 8192;  // Llama 4: three of four layers
    if (*m.seq_len > chunk)
      for (int l = 0; l < s.layers; ++l) s.windows.push_back((l + 1) % 4 == 0 ? 0 : chunk / 2);
  } else if (std::regex_search(attention, w, std::regex(R"(window (?:of )?(\d{1,6}))"))) {
    const int window = std::stoi(w[1].str());
    for (int l = 0; l < s.layers; ++l)
      s.windows.push_back(says(attention, "alternating") && l % 2 == 1 ? 0 : window);
  } else if (says(attention, "window")) {
    return NoCase{"the attention window is not printed"};
  }
  return s;
}

std::variant<RunCase, NoCase> run_case(const PublishedRun& run) {
  const std::string words = lower_case(run.model.name + " " + run.plan.other + " " + run.source);
  if (!run.step_s) return NoCase{"no measured step time"};
  if (says(words, "lora")) return NoCase{"frozen base weights (LoRA) are not modelled"};
  if (says(lower_case(run.plan.other), "sliding-window") ||
      says(lower_case(run.plan.other), "parallel transformer block"))
    return NoCase{"the model was changed (" + run.plan.other + ") in ways that are not printed"};
  if (says(lower_case(run.plan.other), "offload") &&
      !says(lower_case(run.plan.other), "no offload"))
    return NoCase{"activations offloaded to the host are not modelled"};

  const FrameworkDefaults defaults = framework_defaults(run);
  auto model = model_of(run);
  if (auto* no = std::get_if<NoCase>(&model)) return *no;
  auto cluster = cluster_of(run);
  if (auto* no = std::get_if<NoCase>(&cluster)) return *no;

  RunCase c;
  c.model = std::get<ModelShape>(model);
  c.cluster = std::get<hw::Cluster>(cluster);
  c.framework = defaults.name;
  c.stack = defaults.stack;
  const Reader read{run, defaults, c.assumed};
  const PublishedPlan& printed = run.plan;
  if (run.gpus.value_or(0) <= 0) return NoCase{"the number of GPUs is not printed"};
  if (printed.global_batch.value_or(0) <= 0) return NoCase{"the global batch is not printed"};

  Plan& p = c.plan;
  if (!printed.tp && run.gpus.value() > 1) return NoCase{"tp is not printed"};
  if (!printed.pp && run.gpus.value() > 1) return NoCase{"pp is not printed"};
  p.tp = std::max(1, printed.tp.value_or(1));
  p.pp = std::max(1, printed.pp.value_or(1));
  p.cp = std::max(1, printed.cp.value_or(1));
  p.dp = quotient(*run.gpus, p.tp * p.pp * p.cp);
  if (p.dp == 0) return NoCase{"tp * pp * cp does not divide the number of GPUs"};
  if (printed.dp && *printed.dp != p.dp)
    c.assumed.push_back("dp " + std::to_string(p.dp) + " (printed " + std::to_string(*printed.dp) +
                        " does not fill the GPUs)");
  p.micro_batch = std::max(1, printed.micro_batch.value_or(1));
  if (!printed.micro_batch) read.note("micro_batch", "1");
  const std::int64_t per_pass = static_cast<std::int64_t>(p.dp) * p.micro_batch;
  if (*printed.global_batch % per_pass != 0)
    return NoCase{"the global batch is no multiple of dp * micro_batch"};
  c.step = {.seq = *run.model.seq_len, .global_batch = *printed.global_batch};

  p.ep = c.model.moe ? std::max(1, printed.ep.value_or(1)) : 1;
  p.etp = 1;
  if (c.model.moe) {
    if (printed.etp) {
      p.etp = std::max(1, *printed.etp);
    } else if (defaults.expert_tp_follows_tp && p.tp > 1 && p.cp * p.dp % p.ep == 0) {
      p.etp = p.tp;
    }
    if (!printed.etp && p.tp > 1) read.note("etp", std::to_string(p.etp));
    if (p.tp * p.cp * p.dp % (p.ep * p.etp) != 0)
      return NoCase{"ep * etp does not divide tp * cp * dp"};
  }

  auto precision = read.precision();
  if (auto* no = std::get_if<NoCase>(&precision)) return *no;
  p.precision = std::get<Precision>(precision);
  auto zero = read.zero(&p.shard_group);
  if (auto* no = std::get_if<NoCase>(&zero)) return *no;
  p.zero = std::get<Zero>(zero);
  if (p.shard_group >= p.dp * p.cp || p.dp * p.cp % std::max(1, p.shard_group) != 0)
    p.shard_group = 0;
  auto schedule = read.schedule(c.model, p);
  if (auto* no = std::get_if<NoCase>(&schedule)) return *no;
  p.schedule = std::get<ScheduleKind>(schedule);
  p.sequence_parallel = p.tp > 1 && printed.sequence_parallel.value_or(defaults.sequence_parallel);
  if (!printed.sequence_parallel && p.tp > 1)
    read.note("sequence_parallel", p.sequence_parallel ? "true" : "false");
  p.recompute = read.recompute(c);
  p.overlap = read.overlap(c.model, p);
  const hw::Stack& able = hw::stack(c.stack);
  p.overlap.grad_reduce &= able.can_overlap_grad_reduce;
  p.overlap.param_gather &= able.can_overlap_param_gather;
  p.overlap.p2p &= able.can_overlap_p2p;
  p.overlap.tp &= able.can_overlap_tp;
  if (p.overlap.expert == Overlap::Expert::OneFOneB && !able.can_overlap_expert_1f1b)
    p.overlap.expert = Overlap::Expert::None;
  const int chunks = p.pp * p.vpp;
  if (chunks > c.model.layers + 2) return NoCase{"more pipeline chunks than layers"};
  // Layers that don't divide: the ends give up layers for the embedding and the head.
  p.layout = balanced_layout(
      {.layers = c.model.layers, .mtp = c.model.mtp_depth, .embedding = defaults.embedding_weight},
      chunks, c.model.layers % chunks != 0);

  const std::string dispatcher = lower_case(printed.dispatcher);
  if (says(dispatcher, "deepep"))
    c.dispatcher = hw::Dispatcher::DeepEp;
  else if (says(dispatcher, "hybridep"))
    c.dispatcher = hw::Dispatcher::HybridEp;
  else if (says(dispatcher, "alltoall"))
    c.dispatcher = hw::Dispatcher::AllToAll;
  else
    c.dispatcher = defaults.dispatcher;
  c.eager = says_word(lower_case(printed.other), "eager");
  return c;
}

hw::Stack stack_of(const RunCase& c, hw::Stack s) {
  if (c.dispatcher) s.dispatcher = *c.dispatcher;
  if (c.eager) s.fused_norm = s.fused_activation = s.fused_residual = s.fused_rope = false;
  return s;
}

}  // namespace reckon::plan
