// Plan -> arguments. The way back is megatron_import.cc; the test of both is that a plan that goes
// out and comes back is the same.
#include <fmt/format.h>

#include <algorithm>

#include "planner/launch/megatron.h"
#include "planner/launch/megatron_modules.h"
#include "planner/plan_fields.h"
#include "sim/check.h"

namespace reckon::plan::launch {

namespace {

// Shape, without what a plan decides.
MegatronArgs model_args(const ModelShape& m) {
  MegatronArgs a;
  a.layers = m.layers, a.hidden = m.hidden, a.heads = m.heads;
  a.ffn = m.ffn > 0 ? m.ffn : m.moe ? m.moe->ffn : 4 * m.hidden;
  a.vocab = static_cast<int>(m.vocab);
  a.untie_embeddings = !m.tied_embeddings;
  a.swiglu = m.mlp == Mlp::SwiGlu;
  a.squared_relu = m.mlp == Mlp::SquaredRelu;
  a.normalization = m.norm == Norm::RmsNorm ? "RMSNorm" : "LayerNorm";
  a.positions = m.positions == Positions::Rope      ? "rope"
                : m.positions == Positions::Learned ? "learned_absolute"
                                                    : "none";
  a.max_positions = m.max_positions;
  a.qk_layernorm = m.qk_norm || m.mla.has_value();  // MLA: the norms of the latents
  a.qkv_bias = m.qkv_bias && !m.linear_bias;
  a.linear_bias = m.linear_bias;
  if (m.mla) {
    a.mla = true;
    if (m.mla->q_lora > 0) a.q_lora = m.mla->q_lora;
    a.kv_lora = m.mla->kv_lora;
    a.qk_head_dim = m.mla->qk_nope;
    a.qk_pos_dim = m.mla->qk_rope;
    a.v_head_dim = m.mla->v;
  } else {
    a.kv_channels = m.head_dim;
    if (m.kv_heads != m.heads) a.grouped_queries = true, a.query_groups = m.kv_heads;
  }
  if (std::any_of(m.windows.begin(), m.windows.end(), [](int w) { return w > 0; })) {
    std::vector<bool> windowed;
    int width = 0;
    for (int l = 0; l < m.layers; ++l) {
      const int w = m.windows[static_cast<std::size_t>(l) % m.windows.size()];
      windowed.push_back(w > 0);
      width = std::max(width, w);
    }
    a.window = fmt::format("({},0)", width - 1);  // keys before a query; the query itself counts
    a.window_freq = pattern_text(windowed);
  }
  if (m.moe) {
    const Moe& e = *m.moe;
    a.experts = e.experts, a.top_k = e.top_k, a.moe_ffn = e.ffn;
    a.moe_layer_freq = pattern_text(e.layers);
    if (e.shared_ffn > 0) a.shared_ffn = e.shared_ffn;
    a.shared_gate = e.shared_gate;
    a.score = e.score == RouterScore::Sigmoid ? "sigmoid" : "softmax";
    if (e.limited_groups < e.groups) a.groups = e.groups, a.group_topk = e.limited_groups;
    a.grouped_gemm = true;
  }
  if (m.mtp_depth > 0) a.mtp = m.mtp_depth;
  return a;
}

void set_numbers(MegatronArgs& a, const Plan& p, const hw::Stack& stack) {
  a.bf16 = p.precision != Precision::Fp32 && p.precision != Precision::Fp16;
  a.fp16 = p.precision == Precision::Fp16;
  switch (p.precision) {
    case Precision::Fp8: a.fp8_format = "hybrid", a.fp8_recipe = "tensorwise"; break;
    case Precision::Fp8DeepSeek: a.fp8_format = "e4m3", a.fp8_recipe = "blockwise"; break;
    case Precision::Mxfp8: a.fp8_format = "e4m3", a.fp8_recipe = "mxfp8"; break;
    default: return;
  }
  a.padding = a.experts.has_value();
  // Parameters kept and gathered in fp8, where the stack's memory says so.
  a.fp8_param_gather = stack.fp8_weight_bytes.si <= 2 && p.zero != Zero::None;
  a.reuse_grad_buf = a.fp8_param_gather && p.precision == Precision::Mxfp8;
  // DeepSeek-V3 report, 3.3.3: moments in bf16.
  if (p.precision == Precision::Fp8DeepSeek && a.distributed_optimizer) {
    a.precision_aware = true;
    a.main_grads = a.main_params = "fp32";
    a.exp_avg = a.exp_avg_sq = "bf16";
  }
}

void set_recompute(MegatronArgs& a, const Recompute& r) {
  if (r.mode == Recompute::Mode::Full) {
    a.recompute = "full";
    a.recompute_method = r.full_layers > 0 ? "block" : "uniform";
    a.recompute_layers = r.full_layers > 0 ? r.full_layers : 1;
  } else if (r.mode == Recompute::Mode::Selective) {
    a.recompute = "selective";
    for (const RecomputeName& module : kRecomputeNames)
      if (r.modules & module.bit) a.recompute_modules.emplace_back(module.name);
  }
}

void set_dispatcher(MegatronArgs& a, const Question& q, std::optional<MegatronRelease> release) {
  const Plan& p = q.plan;
  if (q.stack.dispatcher == hw::Dispatcher::AllToAll || p.ep * p.etp == 1) {
    a.dispatcher = "alltoall";
    return;
  }
  a.dispatcher = "flex";
  const bool hybrid = q.stack.dispatcher == hw::Dispatcher::HybridEp;
  a.flex_backend = hybrid ? "hybridep" : "deepep";
  if (p.comm_sms == 0) return;
  if (release && *release >= MegatronRelease::V0_19)
    a.dispatcher_sms = p.comm_sms;
  else
    (hybrid ? a.hybridep_sms : a.deepep_sms) = p.comm_sms;
}

void set_data_parallelism(MegatronArgs& a, const Plan& p) {
  a.distributed_optimizer = p.zero != Zero::None;
  if (p.shard_group > 0) a.optimizer_instances = p.dp * p.cp / p.shard_group;
  if (p.zero == Zero::Gradients || p.zero == Zero::Full) {
    a.megatron_fsdp = true;
    a.sharding = p.zero == Zero::Full ? "optim_grads_params" : "optim_grads";
    a.checkpoint_format = "fsdp_dtensor";
  }
  a.overlap_grad_reduce = p.overlap.grad_reduce;
  a.overlap_param_gather = p.overlap.param_gather;
}

void set_plan(MegatronArgs& a, const Question& q, std::optional<MegatronRelease> release) {
  const Plan& p = q.plan;
  a.tp = p.tp, a.pp = p.pp, a.cp = p.cp, a.ep = p.ep;
  if (a.experts) a.etp = p.etp;
  a.sequence_parallel = p.sequence_parallel;
  a.micro_batch = p.micro_batch;
  a.global_batch = static_cast<int>(q.step.global_batch);
  a.seq = q.step.seq;
  a.max_positions = std::max(a.max_positions, a.positions == "learned_absolute" ? 0 : a.seq);
  if (p.cp > 1) a.cp_comm_type = {"p2p"};
  if (p.pp > 1) {
    a.layout.reserve(p.layout.size());
    for (const ChunkLayout& c : p.layout)
      a.layout.push_back(
          {.layers = c.layers, .mtp = c.mtp, .embedding = c.embedding, .loss = c.head});
    a.overlap_p2p = p.overlap.p2p || p.schedule != ScheduleKind::Interleaved;
  }
  set_data_parallelism(a, p);
  set_recompute(a, p.recompute);
  set_numbers(a, p, q.stack);
  if (a.experts) set_dispatcher(a, q, release);
  a.tp_comm_overlap = p.overlap.tp;
  a.ep_overlap = a.delay_wgrad = p.overlap.expert == Overlap::Expert::OneFOneB;
}

const char* model_lacks(const ModelShape& m) {
  if (m.positions == Positions::Alibi) return "Megatron-LM has no ALiBi positions";
  if (m.mlp == Mlp::GeGlu) return "Megatron-LM has no argument for gated GELU";
  if (m.parallel_residual) return "Megatron-LM has no argument for attention beside the MLP";
  if (m.moe && m.moe->expert_bias != m.linear_bias)
    return "Megatron-LM has biases in experts and elsewhere, or nowhere";
  int width = 0;
  for (int w : m.windows) {
    if (w > 0 && width > 0 && w != width) return "Megatron-LM has one attention window per model";
    width = std::max(width, w);
  }
  return nullptr;
}

}  // namespace

const char* megatron_lacks(const Question& q, std::string* detail) {
  const Plan& p = q.plan;
  const auto no = [&](const char* why, const char* what) {
    if (detail != nullptr) *detail = what;
    return why;
  };
  if (const char* why = model_lacks(q.model)) return no(why, "");
  if (p.schedule != ScheduleKind::OneFOneB && p.schedule != ScheduleKind::Interleaved)
    return no("Megatron-LM has no such pipeline schedule (1F1B and interleaved only)",
              hw::spelling(p.schedule));
  if (p.pp > 1 && p.schedule == ScheduleKind::OneFOneB && p.overlap.p2p)
    return no("Megatron-LM overlaps pipeline messages with virtual stages only", "1F1B");
  if (p.overlap.expert == Overlap::Expert::Pair)
    return no("Megatron-LM does not pair forward and backward passes", "");
  if (p.recompute.mode == Recompute::Mode::Selective) {
    if (p.recompute.modules & kPerOp) return no("Megatron-LM has no such recomputation", "per-op");
    if (p.recompute.modules & kActivation && !q.model.moe)
      return no("Megatron-LM recomputes the activation of experts only", "activation");
    if (p.recompute.modules & kMlp && q.model.ffn == 0)
      return no("Megatron-LM recomputes the MLP of dense layers, and there are none", "mlp");
  }
  if (p.shard_group > 0 && p.zero != Zero::Optimizer)
    return no("Megatron-LM splits the ranks into shard groups with ZeRO-1 only", "shard_group");
  if (p.comm_sms > 0 && q.stack.dispatcher == hw::Dispatcher::AllToAll)
    return no("the all-to-all dispatcher of Megatron-LM has no number of SMs", "comm_sms");
  return nullptr;
}

MegatronArgs megatron_args_of(const Question& q, std::optional<MegatronRelease> release) {
  MegatronArgs a = model_args(q.model);
  set_plan(a, q, release);
  return a;
}

MegatronWorld megatron_world(const MegatronArgs& a, const Question& q,
                             std::optional<MegatronRelease> release) {
  const std::string& architecture = q.cluster.gpu.architecture;
  return {.processes = world_size(q.plan),
          .max_connections = a.ep_overlap || a.megatron_fsdp || a.torch_fsdp2 ? 32 : 1,
          .compute_capability = architecture == "ampere"      ? 8
                                : architecture == "blackwell" ? 10
                                                              : 9,
          .release = release.value_or(MegatronRelease::Main)};
}

MegatronJudge::MegatronJudge(const ModelShape& model, std::optional<MegatronRelease> release)
    : model_(std::make_unique<const MegatronArgs>(model_args(model))), release_(release) {}
MegatronJudge::~MegatronJudge() = default;

const char* MegatronJudge::objection(const Question& q, std::string* detail) const {
  if (const char* why = megatron_lacks(q, detail)) return why;
  MegatronArgs a = *model_;
  set_plan(a, q, release_);
  const MegatronRule* rule = broken_rule(a, megatron_world(a, q, release_), detail);
  return rule == nullptr ? nullptr : rule->why;
}

// What no plan says is set as NVIDIA's benchmark recipes do: mock data, their optimizer.
MegatronArgs megatron_run(const Job& job, std::optional<MegatronRelease> release) {
  MegatronArgs a = megatron_args_of(job.question(), release);
  a.train_iters = job.steps;
  a.mock_data = true;
  a.tokenizer = "NullTokenizer";
  a.vocab_multiple = 128;
  a.attention_dropout = a.hidden_dropout = job.stack.dropout ? 0.1 : 0.0;
  a.lr = 1e-4, a.min_lr = 1e-5, a.lr_decay_style = "cosine";
  a.weight_decay = 0.1, a.clip_grad = 1.0;
  a.transformer_impl = "transformer_engine";
  using enum hw::AttentionKernel;
  a.attention_backend = job.model.mla                    ? "auto"
                        : job.stack.attention == Unfused ? "unfused"
                        : job.stack.attention == CuDnn   ? "fused"
                                                         : "flash";
  if (job.stack.fused_cross_entropy) {
    a.cross_entropy_fusion = true;
    a.cross_entropy_impl = "native";  // "te" is refused since 0.19
  }
  if (job.model.moe) {
    a.permute_fusion = job.stack.fused_permute;
    a.router_fusion = job.stack.fused_router;
    a.router_dtype = "fp32";
    if (job.model.moe->score == RouterScore::Sigmoid) {
      // DeepSeek-V3 report, 2.1.2: a bias per expert instead of an auxiliary loss.
      a.expert_bias_routing = true;
      a.bias_rate = 1e-3;
      a.load_balancing = "seq_aux_loss";
      a.aux_loss = 1e-4;
    } else {
      a.load_balancing = "aux_loss";
      a.aux_loss = 1e-3;
      a.pre_softmax = job.model.moe->top_k == 1;
    }
  }
  return a;
}

}  // namespace reckon::plan::launch
