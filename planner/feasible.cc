// The rules, in the order in which a reader would ask: sizes, tensor and context parallelism,
// experts, layers, schedule, batch, data parallelism, numbers, what the stack can do. The first
// that fails is the reason.
//
// Not here: memory (memory.h), and what is legal but never pays (candidates.h).
#include "planner/feasible.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/schedule.h"

namespace reckon::plan {

namespace {

struct Checked : Question {
  std::string* detail;

  // Writes the figures if anybody wants them; returns the reason.
  template <class... Figures>
  const char* no(const char* why, fmt::format_string<Figures...> figures,
                 Figures&&... values) const {
    if (detail) *detail = fmt::format(figures, std::forward<Figures>(values)...);
    return why;
  }
};

const char* sizes_fit(const Checked& c) {
  const Plan& p = c.plan;
  for (int degree : {p.tp, p.pp, p.vpp, p.dp, p.cp, p.ep, p.etp, p.micro_batch})
    if (degree < 1)
      return c.no("a degree or the micro-batch is below 1",
                  "tp {} pp {} vpp {} dp {} cp {} ep {} etp {} micro-batch {}", p.tp, p.pp, p.vpp,
                  p.dp, p.cp, p.ep, p.etp, p.micro_batch);
  const auto gpus = static_cast<std::int64_t>(p.tp) * p.pp * p.dp * p.cp;
  if (gpus > c.cluster.gpus)
    return c.no("the plan needs more GPUs than the cluster has", "tp x pp x dp x cp = {} > {}",
                gpus, c.cluster.gpus);
  return nullptr;
}

const char* within_layer(const Checked& c) {
  const Plan& p = c.plan;
  const ModelShape& m = c.model;
  if (m.heads % p.tp != 0)
    return c.no("attention heads do not divide by tp", "{} heads, tp {}", m.heads, p.tp);
  // With more ranks than key-value heads each head is held by several ranks.
  if (!m.mla && m.kv_heads % p.tp != 0 && p.tp % m.kv_heads != 0)
    return c.no("key-value heads do not divide by tp", "{} heads, tp {}", m.kv_heads, p.tp);
  const bool has_dense =
      !m.moe || std::count(m.moe->layers.begin(), m.moe->layers.end(), false) > 0;
  if (has_dense && m.ffn % p.tp != 0)
    return c.no("the MLP's width does not divide by tp", "width {}, tp {}", m.ffn, p.tp);
  if (m.moe && m.moe->shared_ffn % p.tp != 0)
    return c.no("the shared experts' width does not divide by tp", "width {}, tp {}",
                m.moe->shared_ffn, p.tp);
  // Megatron-Core: mixtures with tensor parallelism must use sequence parallelism.
  if (m.moe && p.tp > 1 && !p.sequence_parallel)
    return c.no("a mixture with tensor parallelism needs sequence parallelism", "tp {}", p.tp);
  // Causal balance: each rank takes one slice from each end of the sequence.
  if (p.cp > 1 && c.step.seq % (2 * p.cp) != 0)
    return c.no("the sequence does not divide by 2 cp", "sequence {}, cp {}", c.step.seq, p.cp);
  if (p.sequence_parallel && p.tp > 1 && c.step.seq / p.cp % p.tp != 0)
    return c.no("a context slice does not divide by tp (sequence parallelism)",
                "sequence {}, cp {}, tp {}", c.step.seq, p.cp, p.tp);
  return nullptr;
}

const char* experts(const Checked& c) {
  const Plan& p = c.plan;
  if (!c.model.moe) {
    if (p.ep > 1 || p.etp > 1)
      return c.no("expert parallelism of a model without experts", "ep {}, etp {}", p.ep, p.etp);
    return nullptr;
  }
  const Moe& moe = *c.model.moe;
  if (moe.experts % p.ep != 0)
    return c.no("experts do not divide by ep", "{} experts, ep {}", moe.experts, p.ep);
  if (moe.ffn % p.etp != 0)
    return c.no("an expert's width does not divide by etp", "width {}, etp {}", moe.ffn, p.etp);
  if (static_cast<std::int64_t>(p.tp) * p.cp * p.dp % (static_cast<std::int64_t>(p.ep) * p.etp) !=
      0)
    return c.no("ep x etp does not divide the ranks of a stage",
                "ep {} x etp {}, tp {} x cp {} x dp {}", p.ep, p.etp, p.tp, p.cp, p.dp);
  return nullptr;
}

const char* layers(const Checked& c) {
  const Plan& p = c.plan;
  const int chunks = p.pp * p.vpp;
  // The embedding and the head may have a chunk of their own.
  if (c.model.layers + 2 < chunks)
    return c.no("more pipeline chunks than layers", "{} chunks, {} layers", chunks, c.model.layers);
  if (static_cast<int>(p.layout.size()) != chunks)
    return c.no("the layout has not one entry per pipeline chunk", "{} entries, pp {} x vpp {}",
                p.layout.size(), p.pp, p.vpp);
  int next = 0, mtp = 0;
  for (std::size_t i = 0; i < p.layout.size(); ++i) {
    const ChunkLayout& chunk = p.layout[i];
    if (chunk.layers < 1 && !chunk.embedding && !chunk.head)
      return c.no("a pipeline chunk with nothing in it", "chunk {}", i);
    if (chunk.first_layer != next)
      return c.no("the layout skips or repeats layers", "chunk {} starts at layer {}, not {}", i,
                  chunk.first_layer, next);
    if (chunk.embedding != (i == 0) || chunk.head != (i + 1 == p.layout.size()))
      return c.no("the embedding belongs to the first chunk and the head to the last", "chunk {}",
                  i);
    next += chunk.layers;
    mtp += chunk.mtp;
  }
  if (next != c.model.layers)
    return c.no("the layout does not hold all layers", "{} of {}", next, c.model.layers);
  if (mtp != c.model.mtp_depth)
    return c.no("the layout does not hold all MTP modules", "{} of {}", mtp, c.model.mtp_depth);
  return nullptr;
}

const char* recomputation(const Checked& c) {
  const Recompute& r = c.plan.recompute;
  const ModelShape& m = c.model;
  if (r.mode != Recompute::Mode::Selective) return nullptr;
  if (r.modules & kMlaUp && !m.mla) return "recomputes MLA projections of a model without MLA";
  if (r.modules & (kMoe | kSharedExpert) && !m.moe)
    return "recomputes experts of a model without experts";
  return nullptr;
}

const char* batch_and_schedule(const Checked& c) {
  const Plan& p = c.plan;
  const std::int64_t per_round = static_cast<std::int64_t>(p.dp) * p.micro_batch;
  if (c.step.global_batch % per_round != 0 || c.step.global_batch < 1)
    return c.no("the global batch does not divide by dp x micro-batch", "batch {}, dp {} x {}",
                c.step.global_batch, p.dp, p.micro_batch);
  const auto m = static_cast<int>(c.step.global_batch / per_round);
  if (const char* why = why_illegal(p.schedule, p.pp, p.vpp, m))
    return c.no(why, "pp {}, vpp {}, {} micro-batches", p.pp, p.vpp, m);
  return nullptr;
}

const char* shards_fit(const Checked& c) {
  const Plan& p = c.plan;
  if (p.shard_group != 0 && (p.shard_group < 0 || p.dp * p.cp % p.shard_group != 0))
    return c.no("the shard group does not divide dp x cp", "group {}, dp {} x cp {}", p.shard_group,
                p.dp, p.cp);
  return nullptr;
}

const char* numbers(const Checked& c) {
  using sim::DType;
  const hw::Gpu& gpu = c.cluster.gpu;
  const auto has = [&](DType t) { return hw::peak(gpu, t).si > 0; };
  const auto no = [&](const char* why) { return c.no(why, "{}", gpu.name); };
  switch (c.plan.precision) {
    case Precision::Fp32:
      return has(DType::Tf32) || has(DType::Fp32) ? nullptr : no("the GPU lacks fp32");
    case Precision::Fp16: return has(DType::Fp16) ? nullptr : no("the GPU lacks fp16");
    case Precision::Bf16: return has(DType::Bf16) ? nullptr : no("the GPU lacks bf16");
    case Precision::Fp8: return has(DType::Fp8) ? nullptr : no("the GPU lacks fp8");
    case Precision::Fp8DeepSeek: return has(DType::Fp8Block) ? nullptr : no("the GPU lacks fp8");
    case Precision::Mxfp8: return has(DType::Mxfp8) ? nullptr : no("the GPU lacks mxfp8");
  }
  return nullptr;
}

// What the plan switches on and the stack can't do. A switch without effect (data-parallel overlap
// of one replica) is no reason.
const char* abilities(const Checked& c) {
  const Plan& p = c.plan;
  const hw::Stack& s = c.stack;
  const auto no = [&](const char* why) { return c.no(why, "stack {}", s.name); };
  const bool replicas = p.dp * p.cp > 1;
  if (p.overlap.grad_reduce && !s.can_overlap_grad_reduce && replicas)
    return no("the stack can't overlap gradient reduction");
  if (p.overlap.param_gather && !s.can_overlap_param_gather && replicas && p.zero != Zero::None)
    return no("the stack can't overlap parameter gathers");
  if (p.overlap.p2p && !s.can_overlap_p2p && p.pp > 1)
    return no("the stack can't overlap pipeline messages");
  if (p.overlap.tp && !s.can_overlap_tp && p.tp > 1)
    return no("the stack can't overlap tensor-parallel collectives");
  if (p.overlap.tp && p.tp > 1 && !p.sequence_parallel)
    return c.no("overlap of tensor-parallel collectives needs sequence parallelism", "tp {}", p.tp);

  const bool pairs = p.schedule == ScheduleKind::DualPipe || p.schedule == ScheduleKind::DualPipeV;
  if (pairs && !s.can_pair_fb) return no("the stack can't pair forward and backward passes");
  const bool split = p.schedule == ScheduleKind::ZbH1 || p.schedule == ScheduleKind::ZbH2 ||
                     p.schedule == ScheduleKind::ZbV;
  if (split && !s.can_split_backward) return no("the stack can't split the backward pass");
  if ((p.precision == Precision::Fp8 && !s.can_fp8) ||
      (p.precision == Precision::Fp8DeepSeek && !s.can_fp8_block) ||
      (p.precision == Precision::Mxfp8 && !s.can_mxfp8))
    return no("the stack has no recipe for this precision");
  if (pairs && p.zero == Zero::Full) return "fully sharded parameters do not go with F&B pairs";
  if (s.reckon_ops) {
    if (p.tp > 1 && !p.sequence_parallel)
      return no("the stack's tensor parallelism needs sequence parallelism");
    if (p.etp > 1) return no("the stack does not split experts over tensor-parallel ranks");
    if (p.zero == Zero::Gradients || p.zero == Zero::Full || p.shard_group != 0)
      return no("the stack shards optimizer states alone, over all data-parallel ranks");
  }
  switch (p.overlap.expert) {
    case Overlap::Expert::None: break;
    case Overlap::Expert::Pair:
      if (!pairs) return "F&B pairs need DualPipe or DualPipeV";
      break;
    case Overlap::Expert::OneFOneB:
      if (!s.can_overlap_expert_1f1b)
        return no("the stack can't overlap expert communication with another micro-batch");
      if (!c.model.moe || p.ep == 1)
        return "overlap of expert communication without expert parallelism";
      // Megatron-Core: with a pipeline it needs virtual stages, and no full recomputation.
      if (p.pp > 1 && p.schedule != ScheduleKind::Interleaved)
        return "1F1B overlap of expert communication needs the interleaved schedule";
      if (p.pp == 1 && p.schedule != ScheduleKind::OneFOneB)
        return "1F1B overlap of expert communication needs 1F1B order";
      if (p.recompute.mode == Recompute::Mode::Full)
        return "1F1B overlap of expert communication excludes full recomputation";
      if (p.zero == Zero::Full) return "fully sharded parameters do not go with F&B pairs";
      break;
  }
  if (p.comm_sms < 0 || (p.comm_sms > 0 && p.comm_sms >= c.cluster.gpu.sms))
    return c.no("more SMs for communication than the GPU has", "{} of {}", p.comm_sms,
                c.cluster.gpu.sms);
  return nullptr;
}

}  // namespace

const char* objection(Rule rule, const Question& question, std::string* detail) {
  const Checked c{question, detail};
  switch (rule) {
    case Rule::Sizes: return sizes_fit(c);
    case Rule::WithinLayer: return within_layer(c);
    case Rule::Experts: return experts(c);
    case Rule::Layers: return layers(c);
    case Rule::Recompute: return recomputation(c);
    case Rule::Schedule: return batch_and_schedule(c);
    case Rule::Shards: return shards_fit(c);
    case Rule::Numbers: return numbers(c);
    case Rule::Abilities: return abilities(c);
  }
  return nullptr;
}

std::optional<Infeasible> why_illegal(const ModelShape& model, const hw::Cluster& cluster,
                                      const hw::Stack& stack, const Plan& plan,
                                      const StepShape& step) {
  std::string detail;
  for (Rule rule : {Rule::Sizes, Rule::WithinLayer, Rule::Experts, Rule::Layers, Rule::Recompute,
                    Rule::Schedule, Rule::Shards, Rule::Numbers, Rule::Abilities})
    if (const char* why = objection(rule, {model, cluster, stack, plan, step}, &detail))
      return Infeasible{why, std::move(detail)};
  return std::nullopt;
}

}  // namespace reckon::plan
