#include "planner/feasible.h"

#include <catch2/catch.hpp>
#include <functional>
#include <string>

using namespace reckon;
using namespace reckon::plan;

namespace {

struct World {
  ModelShape model;
  hw::Cluster cluster;
  hw::Stack stack;
  StepShape step{.seq = 4096, .global_batch = 1024};
  Plan plan;
};

// 16 layers, 64 experts, 4 dense layers; 256 Hopper GPUs; tp2 pp4 dp32 ep16. Legal.
World legal_world() {
  World w;
  w.model = {.layers = 16, .hidden = 1024, .ffn = 4096, .heads = 16, .kv_heads = 4, .head_dim = 64};
  w.model.vocab = 32000;
  w.model.mtp_depth = 1;
  w.model.moe = Moe{.experts = 64, .top_k = 4, .ffn = 512, .shared_ffn = 512};
  w.model.moe->layers.assign(16, true);
  for (std::size_t l = 0; l < 4; ++l) w.model.moe->layers[l] = false;
  w.cluster.gpus = 256;
  w.cluster.gpu.name = "hopper";
  w.cluster.gpu.architecture = "hopper";
  w.cluster.gpu.sms = 132;
  w.cluster.gpu.peak_bf16 = FlopsPerSecond(1e15);
  w.cluster.gpu.peak_tf32 = FlopsPerSecond(5e14);
  w.cluster.gpu.peak_fp8 = FlopsPerSecond(2e15);
  w.stack.name = "test";
  w.plan = {.tp = 2, .pp = 4, .dp = 32, .ep = 16};
  w.plan.layout = balanced_layout({.layers = 16, .mtp = 1}, 4);
  return w;
}

std::string reason(const World& w) {
  const auto why = why_illegal(w.model, w.cluster, w.stack, w.plan, w.step);
  return why ? why->why : "";
}

}  // namespace

TEST_CASE("a legal plan has no reason against it") {
  CHECK(reason(legal_world()) == "");
}

// One change each, and the reason that it must give.
TEST_CASE("each rule names itself") {
  struct Broken {
    const char* why;
    std::function<void(World&)> change;
  };
  const auto chunks = [](World& w) {
    w.plan.layout = balanced_layout({.layers = w.model.layers, .mtp = 1}, w.plan.pp * w.plan.vpp);
  };
  const Broken cases[] = {
      {"a degree or the micro-batch is below 1", [](World& w) { w.plan.micro_batch = 0; }},
      {"the plan needs more GPUs than the cluster has", [](World& w) { w.plan.dp = 64; }},
      {"attention heads do not divide by tp", [](World& w) { w.model.heads = 15; }},
      {"key-value heads do not divide by tp", [](World& w) { w.model.kv_heads = 3; }},
      {"the MLP's width does not divide by tp", [](World& w) { w.model.ffn = 4097; }},
      {"the shared experts' width does not divide by tp",
       [](World& w) { w.model.moe->shared_ffn = 513; }},
      {"a mixture with tensor parallelism needs sequence parallelism",
       [](World& w) { w.plan.sequence_parallel = false; }},
      {"the sequence does not divide by 2 cp",
       [](World& w) { w.plan.cp = 2, w.plan.dp = 16, w.step.seq = 4098; }},
      {"a context slice does not divide by tp (sequence parallelism)",
       [](World& w) { w.step.seq = 4097; }},
      {"expert parallelism of a model without experts", [](World& w) { w.model.moe.reset(); }},
      {"experts do not divide by ep", [](World& w) { w.model.moe->experts = 60; }},
      {"an expert's width does not divide by etp",
       [](World& w) { w.plan.etp = 2, w.model.moe->ffn = 511; }},
      {"ep x etp does not divide the ranks of a stage", [](World& w) { w.plan.etp = 8; }},
      {"more pipeline chunks than layers", [](World& w) { w.plan.vpp = 5; }},
      {"the layout has not one entry per pipeline chunk",
       [](World& w) { w.plan.layout.pop_back(); }},
      {"a pipeline chunk with nothing in it", [](World& w) { w.plan.layout[1].layers = 0; }},
      {"the layout skips or repeats layers", [](World& w) { ++w.plan.layout[2].first_layer; }},
      {"the embedding belongs to the first chunk and the head to the last",
       [](World& w) { w.plan.layout[1].embedding = true; }},
      {"the layout does not hold all layers", [](World& w) { --w.plan.layout.back().layers; }},
      {"the layout does not hold all MTP modules", [](World& w) { w.plan.layout.back().mtp = 0; }},
      {"recomputes MLA projections of a model without MLA",
       [](World& w) {
         w.plan.recompute = {Recompute::Mode::Selective, kMlaUp, 0};
       }},
      {"the global batch does not divide by dp x micro-batch",
       [](World& w) { w.step.global_batch = 1000; }},
      {"interleaved 1F1B needs a number of micro-batches that is a multiple of pp",
       [&](World& w) {
         w.plan.schedule = ScheduleKind::Interleaved, w.plan.vpp = 2;
         w.step.global_batch = 32 * 6, chunks(w);
       }},
      {"DualPipe needs an even number of micro-batches of at least 2 pp",
       [](World& w) {
         w.plan.schedule = ScheduleKind::DualPipe, w.stack.can_pair_fb = true;
         w.step.global_batch = 32 * 6;
       }},
      {"the shard group does not divide dp x cp", [](World& w) { w.plan.shard_group = 5; }},
      {"the GPU lacks mxfp8", [](World& w) { w.plan.precision = Precision::Mxfp8; }},
      {"the GPU lacks fp8",
       [](World& w) {
         w.plan.precision = Precision::Fp8DeepSeek, w.cluster.gpu.peak_fp8 = FlopsPerSecond(0);
       }},
      {"the stack can't overlap gradient reduction",
       [](World& w) { w.stack.can_overlap_grad_reduce = false; }},
      {"the stack can't overlap parameter gathers",
       [](World& w) { w.stack.can_overlap_param_gather = false; }},
      {"the stack can't overlap pipeline messages",
       [](World& w) { w.stack.can_overlap_p2p = false; }},
      {"the stack can't overlap tensor-parallel collectives",
       [](World& w) { w.plan.overlap.tp = true; }},
      {"the stack can't pair forward and backward passes",
       [](World& w) { w.plan.schedule = ScheduleKind::DualPipe; }},
      {"F&B pairs need DualPipe or DualPipeV",
       [](World& w) { w.plan.overlap.expert = Overlap::Expert::Pair; }},
      {"the stack can't overlap expert communication with another micro-batch",
       [](World& w) { w.plan.overlap.expert = Overlap::Expert::OneFOneB; }},
      {"1F1B overlap of expert communication needs the interleaved schedule",
       [](World& w) {
         w.plan.overlap.expert = Overlap::Expert::OneFOneB, w.stack.can_overlap_expert_1f1b = true;
       }},
      {"1F1B overlap of expert communication excludes full recomputation",
       [&](World& w) {
         w.plan.overlap.expert = Overlap::Expert::OneFOneB, w.stack.can_overlap_expert_1f1b = true;
         w.plan.schedule = ScheduleKind::Interleaved, w.plan.vpp = 2, chunks(w);
         w.plan.recompute.mode = Recompute::Mode::Full;
       }},
      {"more SMs for communication than the GPU has", [](World& w) { w.plan.comm_sms = 132; }},
  };
  for (const Broken& b : cases) {
    World w = legal_world();
    b.change(w);
    CHECK(reason(w) == b.why);
  }
}

TEST_CASE("the figures of the case are given") {
  World w = legal_world();
  w.model.moe->experts = 60;
  CHECK(why_illegal(w.model, w.cluster, w.stack, w.plan, w.step)->detail == "60 experts, ep 16");
}

TEST_CASE("an overlap without effect is no reason") {
  World w = legal_world();
  w.plan = {.tp = 2, .pp = 4, .layout = balanced_layout({.layers = 16, .mtp = 1}, 4)};
  w.stack.can_overlap_grad_reduce = w.stack.can_overlap_param_gather = false;
  CHECK(reason(w) == "");
}
