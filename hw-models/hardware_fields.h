// The fields of machines and stacks in JSON; keys are the member names. See json_fields.h.
#pragma once

#include "hw-models/json_fields.h"
#include "hw-models/machine.h"
#include "hw-models/stack.h"

namespace reckon::hw {

inline const auto& spellings(AttentionKernel) {
  static constexpr Spelling<AttentionKernel> t[] = {{AttentionKernel::Unfused, "unfused"},
                                                    {AttentionKernel::Flash1, "flash1"},
                                                    {AttentionKernel::Flash2, "flash2"},
                                                    {AttentionKernel::Flash3, "flash3"},
                                                    {AttentionKernel::CuDnn, "cudnn"}};
  return t;
}

inline const auto& spellings(GroupedGemmKernel) {
  static constexpr Spelling<GroupedGemmKernel> t[] = {
      {GroupedGemmKernel::Loop, "loop"},
      {GroupedGemmKernel::CublasGrouped, "cublas-grouped"},
      {GroupedGemmKernel::DeepGemm, "deepgemm"}};
  return t;
}

inline const auto& spellings(Dispatcher) {
  static constexpr Spelling<Dispatcher> t[] = {{Dispatcher::AllToAll, "all-to-all"},
                                               {Dispatcher::DeepEp, "deepep"},
                                               {Dispatcher::HybridEp, "hybridep"}};
  return t;
}

enum class Architecture { Cpu, Ampere, Hopper, Blackwell };  // spelling of Gpu::architecture

inline const auto& spellings(Architecture) {
  static constexpr Spelling<Architecture> t[] = {{Architecture::Cpu, "cpu"},
                                                 {Architecture::Ampere, "ampere"},
                                                 {Architecture::Hopper, "hopper"},
                                                 {Architecture::Blackwell, "blackwell"}};
  return t;
}

// Gpu::architecture is a text, but only these texts have kernel constants.
struct ArchitectureText {
  std::string& text;
};
inline void read_custom(const Value& v, ArchitectureText& out, const Rule&) {
  out.text = spelling_texts<Architecture>()[read_choice(v, spelling_texts<Architecture>())];
}
inline ordered_json write_custom(const ArchitectureText& a) {
  return a.text.empty() ? ordered_json() : ordered_json(a.text);
}
inline ordered_json schema_custom(const ArchitectureText*) {
  return {{"enum", spelling_texts<Architecture>()}};
}

template <class V>
void fields(V& v, Gpu& g) {
  v("name", g.name, {.doc = "shown in reports"});
  v("architecture", ArchitectureText{g.architecture},
    {.doc = "whose fitted kernel constants apply", .required = true});
  v("sms", g.sms,
    {.doc = "streaming multiprocessors (CPU: cores)", .required = true, .min = 1, .max = 10000});
  v("memory", g.memory, {.doc = "usable by programs", .required = true, .min = 1e6});
  v("memory_rate", g.memory_rate, {.doc = "nameplate", .required = true, .min = 1e6});
  v("l2", g.l2, {.doc = "last-level cache", .required = true, .max = 1e12});
  v("peak_fp32", g.peak_fp32, {.doc = "without tensor cores", .required = true, .min = 1e6});
  v("peak_tf32", g.peak_tf32, {.doc = "dense; 0: not supported", .required = true});
  v("peak_bf16", g.peak_bf16, {.doc = "dense; also fp16", .required = true});
  v("peak_fp8", g.peak_fp8, {.doc = "dense; 0: not supported", .required = true});
  v("peak_fp4", g.peak_fp4, {.doc = "dense; 0: not supported", .required = true});
  v("power_w", g.power_w, {.doc = "board limit", .required = true, .unit = &power_units()});
  v("sustained_matmul", g.sustained_matmul,
    {.doc = "rate of matrix products through a step over that of kernels timed alone",
     .min = 0.3,
     .max = 1.5});
  v.notes("sources", "where each figure is from");
}

template <class V>
void fields(V& v, Node& n) {
  v("gpus", n.gpus,
    {.doc = "that share one NVLink domain", .required = true, .min = 1, .max = 10000});
  v("nvlink", n.nvlink, {.doc = "per GPU and direction; 0: none", .required = true});
  v("pcie", n.pcie, {.doc = "host link, per GPU and direction", .required = true});
  v("nvlink_latency", n.nvlink_latency,
    {.doc = "of one hop, as seen by a collective step", .required = true, .max = 1});
  v.notes("sources", "where each figure is from");
}

inline const auto& spellings(TopologyShape::Kind) {
  using enum TopologyShape::Kind;
  static constexpr Spelling<TopologyShape::Kind> t[] = {
      {FatTree, "fat-tree"}, {Dragonfly, "dragonfly"}, {Edges, "edges"}, {Platform, "simgrid"}};
  return t;
}
inline const auto& spellings(TopologyShape::Wiring) {
  using enum TopologyShape::Wiring;
  static constexpr Spelling<TopologyShape::Wiring> t[] = {
      {Node, "node"}, {Rail, "rail"}, {Plane, "plane"}};
  return t;
}
inline const auto& spellings(TopologyShape::Routing) {
  using enum TopologyShape::Routing;
  static constexpr Spelling<TopologyShape::Routing> t[] = {{Ecmp, "ecmp"}, {Adaptive, "adaptive"}};
  return t;
}

template <class V>
void fields(V& v, TopologyLink& l) {
  v("from", l.from,
    {.doc = "\"gpu3\" (its NIC), \"gpu[0-7]\" (each of them), or the name of a switch",
     .required = true});
  v("to", l.to, {.doc = "likewise", .required = true});
  v("bandwidth", l.bandwidth, {.doc = "of one cable, per direction", .required = true, .min = 1e3});
  v("latency", l.latency, {.doc = "of one cable; the fabric's counts", .max = 1});
  v("count", l.count, {.doc = "cables beside each other; 1", .min = 1, .max = 10000});
}
void finish(const Value& v, TopologyLink& l);

template <class V>
void fields(V& v, TopologyShape& t) {
  v("kind", t.kind,
    {.doc = "how switches are connected: by rule, or as `links` or a SimGrid platform file say",
     .required = true});
  v("layers", t.layers, {.doc = "of a fat-tree; as few as hold the cluster", .min = 1, .max = 3});
  v("radix", t.radix,
    {.doc = "ports of a switch, each as fast as a NIC; of fat-trees and dragonflies",
     .min = 4,
     .max = 1024});
  v("wiring", t.wiring,
    {.doc = "a node's NICs: to one leaf, each to a leaf of its rail, each to a plane of its own"});
  v("rails", t.rails,
    {.doc = "rails or planes; one for each GPU of a node", .min = 1, .max = 1024});
  v("routing", t.routing, {.doc = "one cable by hash, or all of them"});
  v("switch_price", t.switch_price, {.doc = "in the cluster's currency", .min = 1e-9, .max = 1e9});
  v("cable_price", t.cable_price,
    {.doc = "of a cable between switches with its optics, in the cluster's currency",
     .min = 1e-9,
     .max = 1e9});
  v("links", t.links, {.doc = "of kind \"edges\": every cable of the network"});
  v("platform", t.platform,
    {.doc = "of kind \"simgrid\": a platform file (XML) beside the scenario, one host a GPU or one "
            "a node, in the order of GPUs"});
  v.notes("sources", "where each figure is from");
}
void finish(const Value& v, TopologyShape& t);  // each kind has keys of its own

template <class V>
void fields(V& v, Fabric& f) {
  v("nic", f.nic, {.doc = "per GPU and direction", .required = true, .min = 1e3});
  v("latency", f.latency, {.doc = "of one message, end to end", .required = true, .max = 1});
  v("oversubscription", f.oversubscription,
    {.doc = "of the layers above the leaf; 1: full bisection",
     .required = true,
     .min = 1,
     .max = 1000});
  v("topology", f.topology, {.doc = "switches and cables, for `reckon topology`"});
  v.notes("sources", "where each figure is from");
}

template <>
struct Catalogue<Gpu> {
  static constexpr bool exists = true;
  static constexpr const char* what = "a GPU";
  static const std::map<std::string, Gpu>& entries();
};
template <>
struct Catalogue<Node> {
  static constexpr bool exists = true;
  static constexpr const char* what = "a node";
  static const std::map<std::string, Node>& entries();
};
template <>
struct Catalogue<Fabric> {
  static constexpr bool exists = true;
  static constexpr const char* what = "a fabric";
  static const std::map<std::string, Fabric>& entries();
};
template <>
struct Catalogue<Cluster> {
  static constexpr bool exists = true;
  static constexpr const char* what = "a cluster";
  static const std::map<std::string, Cluster>& entries();
};
template <>
struct Catalogue<Stack> {
  static constexpr bool exists = true;
  static constexpr const char* what = "a stack";
  static const std::map<std::string, Stack>& entries();
};

template <class V>
void fields(V& v, Cluster& c) {
  v("name", c.name, {.doc = "shown in reports"});
  v("gpu", c.gpu, {.doc = "the device", .required = true});
  v("node", c.node, {.doc = "GPUs that share one NVLink domain", .required = true});
  v("fabric", c.fabric, {.doc = "network between nodes", .required = true});
  v("gpus", c.gpus, {.doc = "in the whole cluster", .required = true, .min = 1, .max = 1e6});
  v("price_per_gpu_hour", c.price_per_gpu_hour, {.doc = "in `currency`; 0: not given", .max = 1e4});
  v("currency", c.currency, {.doc = "of prices and money budgets"});
  v.notes("sources", "where each figure is from");
}

void finish(const Value& v, Cluster& cluster);  // whole nodes

template <class V>
void fields(V& v, Stack& s) {
  v("name", s.name, {.doc = "shown in reports"});
  v("attention", s.attention, {.doc = "attention kernels", .required = true});
  v("grouped_gemm", s.grouped_gemm, {.doc = "expert matrix products", .required = true});
  v("dispatcher", s.dispatcher, {.doc = "expert token exchange", .required = true});
  v("fused_norm", s.fused_norm, {.doc = "norm in one kernel", .required = true});
  v("fused_activation", s.fused_activation,
    {.doc = "bias + activation in one kernel", .required = true});
  v("fused_residual", s.fused_residual,
    {.doc = "bias + dropout + add in one kernel", .required = true});
  v("fused_rope", s.fused_rope, {.doc = "rotary embedding in one kernel", .required = true});
  v("fused_cross_entropy", s.fused_cross_entropy,
    {.doc = "no fp32 copy of the logits", .required = true});
  v("fused_permute", s.fused_permute, {.doc = "token permutation in one kernel", .required = true});
  v("fused_router", s.fused_router, {.doc = "scores and top-k in one kernel", .required = true});
  v("fused_optimizer", s.fused_optimizer, {.doc = "multi-tensor Adam", .required = true});
  v("fused_wgrad_accumulation", s.fused_wgrad_accumulation,
    {.doc = "weight gradient GEMM adds into the main gradient", .required = true});
  v("dropout", s.dropout, {.doc = "runs dropout kernels", .required = true});
  v("reckon_ops", s.reckon_ops, {.doc = "the op list of reckon's own trainer; false"});
  v("balanced_context", s.balanced_context,
    {.doc = "context-parallel ranks get equal causal work", .required = true});
  v("cuda_graphs", s.cuda_graphs, {.doc = "launches whole graphs", .required = true});
  v("kernel_gap", s.kernel_gap,
    {.doc = "device idle between two kernels of one stream", .required = true, .max = 1e-2});
  v("host_per_kernel", s.host_per_kernel,
    {.doc = "host time to launch one kernel", .required = true, .max = 1e-2});
  v("host_per_step", s.host_per_step,
    {.doc = "data loading and logging that nothing hides", .required = true, .max = 3600});
  v("can_overlap_grad_reduce", s.can_overlap_grad_reduce,
    {.doc = "gradient reduce-scatter under backward passes", .required = true});
  v("can_overlap_param_gather", s.can_overlap_param_gather,
    {.doc = "parameter all-gather under forward passes", .required = true});
  v("can_overlap_p2p", s.can_overlap_p2p,
    {.doc = "pipeline messages under compute", .required = true});
  v("can_overlap_tp", s.can_overlap_tp,
    {.doc = "tensor-parallel collectives under their GEMMs", .required = true});
  v("can_overlap_expert_1f1b", s.can_overlap_expert_1f1b,
    {.doc = "a forward's all-to-all under another micro-batch's backward", .required = true});
  v("can_pair_fb", s.can_pair_fb, {.doc = "DualPipe-style F&B blocks", .required = true});
  v("can_split_backward", s.can_split_backward,
    {.doc = "weight gradients apart from input gradients (zero-bubble schedules)",
     .required = true});
  v("can_fp8", s.can_fp8, {.doc = "fp8 with per-tensor scales", .required = true});
  v("can_fp8_block", s.can_fp8_block,
    {.doc = "fp8 with 1x128 and 128x128 scales", .required = true});
  v("can_mxfp8", s.can_mxfp8, {.doc = "fp8 with 1x32 scales", .required = true});
  v("static_sm_partition", s.static_sm_partition,
    {.doc = "GEMMs never use the SMs reserved for communication", .required = true});
  v("comm_sms", s.comm_sms,
    {.doc = "SMs that a communication kernel occupies", .required = true, .max = 1000});
  v("reduce_bytes", s.reduce_bytes,
    {.doc = "per parameter, of a gradient on the wire", .required = true, .min = 1, .max = 8});
  v("weight_bytes", s.weight_bytes,
    {.doc = "per parameter, at rest", .required = true, .min = 1, .max = 16});
  v("fp8_weight_bytes", s.fp8_weight_bytes,
    {.doc = "per matrix parameter of an fp8 plan, cached copies included",
     .required = true,
     .min = 1,
     .max = 16});
  v("logit_bytes", s.logit_bytes,
    {.doc = "per logit when the loss peaks", .required = true, .min = 1, .max = 64});
  v("fp8_saves", s.fp8_saves,
    {.doc = "fp8 maps keep their fp8 input for the weight gradient", .required = true});
  v("wgrad_placeholders", s.wgrad_placeholders,
    {.doc = "one bf16 tensor per distinct weight shape stays allocated", .required = true});
  v("grad_bytes", s.grad_bytes,
    {.doc = "per parameter, of the main gradient buffer", .required = true, .min = 1, .max = 16});
  v("optimizer_bytes", s.optimizer_bytes,
    {.doc = "per parameter: master copy and both moments", .required = true, .max = 64});
  v("reserve", s.reserve,
    {.doc = "context, libraries, communicators, fragmentation", .required = true, .max = 1e12});
  v("gemm_efficiency", s.gemm_efficiency,
    {.doc = "of matrix products, relative to the fitted tables", .min = 0.05, .max = 4});
  v("attention_efficiency", s.attention_efficiency,
    {.doc = "of attention, relative to the fitted tables", .min = 0.05, .max = 4});
  v("memory_efficiency", s.memory_efficiency,
    {.doc = "of memory-bound kernels, relative to the fitted tables", .min = 0.05, .max = 4});
  v("comm_efficiency", s.comm_efficiency,
    {.doc = "of collectives, relative to the fitted tables", .min = 0.05, .max = 4});
  v("exchange_release", s.exchange_release,
    {.doc = "rate of token exchanges between nodes over that of the release fitted to",
     .min = 0.05,
     .max = 4});
  v("expert_imbalance", s.expert_imbalance,
    {.doc = "busiest rank's tokens over the mean", .min = 1, .max = 10});
  v.notes("sources", "the reason for each switch, the fit of each figure");
}

}  // namespace reckon::hw
