// The fields of a Plan in JSON, and the spellings of its choices. See hw-models/json_fields.h.
#pragma once

#include "hw-models/json_fields.h"
#include "planner/plan.h"

namespace reckon::plan {

inline const auto& spellings(ScheduleKind) {
  static constexpr hw::Spelling<ScheduleKind> t[] = {{ScheduleKind::GPipe, "GPipe"},
                                                     {ScheduleKind::OneFOneB, "1F1B"},
                                                     {ScheduleKind::Interleaved, "interleaved"},
                                                     {ScheduleKind::ZbH1, "ZB-H1"},
                                                     {ScheduleKind::ZbH2, "ZB-H2"},
                                                     {ScheduleKind::ZbV, "ZB-V"},
                                                     {ScheduleKind::DualPipe, "DualPipe"},
                                                     {ScheduleKind::DualPipeV, "DualPipeV"}};
  return t;
}

inline const auto& spellings(Precision) {
  static constexpr hw::Spelling<Precision> t[] = {{Precision::Fp32, "fp32"},
                                                  {Precision::Fp16, "fp16"},
                                                  {Precision::Bf16, "bf16"},
                                                  {Precision::Fp8, "fp8"},
                                                  {Precision::Fp8DeepSeek, "fp8-deepseek"},
                                                  {Precision::Mxfp8, "mxfp8"}};
  return t;
}

inline const auto& spellings(Zero) {
  static constexpr hw::Spelling<Zero> t[] = {{Zero::None, "none"},
                                             {Zero::Optimizer, "optimizer"},
                                             {Zero::Gradients, "gradients"},
                                             {Zero::Full, "full"}};
  return t;
}

inline const auto& spellings(Overlap::Expert) {
  static constexpr hw::Spelling<Overlap::Expert> t[] = {{Overlap::Expert::None, "none"},
                                                        {Overlap::Expert::OneFOneB, "1f1b"},
                                                        {Overlap::Expert::Pair, "pair"}};
  return t;
}

inline const auto& spellings(Recompute::Mode) {
  static constexpr hw::Spelling<Recompute::Mode> t[] = {{Recompute::Mode::None, "none"},
                                                        {Recompute::Mode::Selective, "selective"},
                                                        {Recompute::Mode::Full, "full"}};
  return t;
}

inline const auto& spellings(RecomputeModule) {
  static constexpr hw::Spelling<RecomputeModule> t[] = {{kCoreAttention, "core-attention"},
                                                        {kNorm, "norm"},
                                                        {kActivation, "activation"},
                                                        {kMlaUp, "mla-up"},
                                                        {kMlp, "mlp"},
                                                        {kMoe, "moe"},
                                                        {kSharedExpert, "shared-expert"},
                                                        {kPerOp, "per-op"}};
  return t;
}

// Recompute::modules as an array of names.
struct ModuleSet {
  std::uint32_t& bits;
};
void read_custom(const hw::Value& v, ModuleSet& out, const hw::Rule& rule);
hw::ordered_json write_custom(const ModuleSet& set);
hw::ordered_json schema_custom(const ModuleSet*);

// Plan::layout: an array of chunks, or "balanced" (same as leaving it out), which stays empty until
// complete_plan.
struct LayoutChoice {
  std::vector<ChunkLayout>& chunks;
};
void read_custom(const hw::Value& v, LayoutChoice& out, const hw::Rule& rule);
hw::ordered_json write_custom(const LayoutChoice& layout);

template <class V>
void fields(V& v, Recompute& r) {
  v("mode", r.mode, {.doc = "what the backward pass recomputes", .required = true});
  v("modules", ModuleSet{r.modules}, {.doc = "of mode selective"});
  v("full_layers", r.full_layers,
    {.doc = "of mode full: layers per chunk; 0: all of them", .max = 10000});
}
void finish(const hw::Value& v, Recompute& r);

template <class V>
void fields(V& v, Overlap& o) {
  v("grad_reduce", o.grad_reduce, {.doc = "gradient reduce-scatter under backward passes"});
  v("param_gather", o.param_gather, {.doc = "parameter all-gather under forward passes"});
  v("tp", o.tp, {.doc = "tensor-parallel collectives under their GEMMs"});
  v("p2p", o.p2p, {.doc = "pipeline messages under compute"});
  v("expert", o.expert, {.doc = "what hides the experts' all-to-all"});
}

template <class V>
void fields(V& v, ChunkLayout& c) {
  v("first_layer", c.first_layer, {.doc = "index in the model", .required = true, .max = 10000});
  v("layers", c.layers, {.doc = "of this chunk", .required = true, .max = 10000});
  v("embedding", c.embedding, {.doc = "holds the input table"});
  v("head", c.head, {.doc = "holds the output projection and the loss"});
  v("mtp", c.mtp, {.doc = "multi-token-prediction modules", .max = 100});
}

template <class V>
void fields(V& v, Plan& p) {
  constexpr double kMaxDegree = 1e6;
  v("tp", p.tp, {.doc = "tensor parallel ranks", .required = true, .min = 1, .max = kMaxDegree});
  v("pp", p.pp, {.doc = "pipeline stages", .required = true, .min = 1, .max = kMaxDegree});
  v("vpp", p.vpp, {.doc = "model chunks per stage; 1", .min = 1, .max = 10000});
  v("dp", p.dp,
    {.doc = "data parallel ranks; cluster GPUs / (tp pp cp)", .min = 1, .max = kMaxDegree});
  v("cp", p.cp, {.doc = "context parallel ranks; 1", .min = 1, .max = kMaxDegree});
  v("ep", p.ep, {.doc = "expert parallel ranks; 1", .min = 1, .max = kMaxDegree});
  v("etp", p.etp, {.doc = "tensor parallel ranks of experts; 1", .min = 1, .max = kMaxDegree});
  v("micro_batch", p.micro_batch,
    {.doc = "sequences per pass", .required = true, .min = 1, .max = 1e6});
  v("schedule", p.schedule, {.doc = "order of the passes", .required = true});
  v("layout", LayoutChoice{p.layout}, {.doc = "chunks in forward order, or \"balanced\""});
  v("recompute", p.recompute,
    {.doc = "activations computed again in the backward pass", .required = true});
  v("precision", p.precision, {.doc = "of matrix products", .required = true});
  v("zero", p.zero, {.doc = "what data-parallel ranks share out", .required = true});
  v("shard_group", p.shard_group,
    {.doc = "ranks that share one shard set; 0: all of dp cp", .max = kMaxDegree});
  v("sequence_parallel", p.sequence_parallel,
    {.doc = "with tp > 1: norms and residuals split along the sequence; true"});
  v("overlap", p.overlap, {.doc = "communication hidden under compute"});
  v("comm_sms", p.comm_sms,
    {.doc = "SMs given to expert communication; 0: the stack's choice", .max = 1000});
}

}  // namespace reckon::plan
