#include "planner/lower.h"

#include <catch2/catch.hpp>
#include <set>

#include "planner/groups.h"
#include "planner/schedule.h"
#include "sim/folded.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

hw::Cluster cluster(int gpus) {
  hw::Cluster c;
  c.gpus = gpus;
  c.node.gpus = 8;
  return c;
}

ModelShape moe_model() {
  ModelShape m{.name = "moe",
               .layers = 13,
               .hidden = 512,
               .ffn = 1024,
               .heads = 8,
               .kv_heads = 8,
               .head_dim = 64};
  m.mla = Mla{.q_lora = 192, .kv_lora = 128, .qk_nope = 64, .qk_rope = 32, .v = 64};
  m.moe = Moe{.experts = 32,
              .top_k = 4,
              .ffn = 256,
              .shared_ffn = 256,
              .layers = std::vector<bool>(13, true)};
  m.moe->layers[0] = false;
  m.vocab = 4096;
  m.mtp_depth = 1;
  return m;
}

ModelShape dense_model() {
  return {.name = "dense",
          .layers = 16,
          .hidden = 512,
          .ffn = 2048,
          .heads = 8,
          .kv_heads = 2,
          .head_dim = 64,
          .vocab = 4096,
          .tied_embeddings = true,
          .mlp = Mlp::Gelu};
}

Plan plan_of(const ModelShape& m, ScheduleKind kind, int pp, int vpp, int tp, int dp, int ep) {
  Plan p{.tp = tp, .pp = pp, .vpp = vpp, .dp = dp, .ep = ep, .schedule = kind};
  p.layout = balanced_layout({.layers = m.layers, .mtp = m.mtp_depth}, pp * vpp);
  if (kind == ScheduleKind::DualPipe || kind == ScheduleKind::DualPipeV)
    p.overlap.expert = Overlap::Expert::Pair;
  return p;
}

// Flops of everything that a Program runs, recomputation apart.
struct Count {
  double model = 0, recompute = 0;
};
Count count(const sim::Program& program) {
  Count n;
  for (const sim::Role& role : program.roles)
    for (const sim::Slot& slot : role.slots)
      for (const sim::Op& op : program.blocks[slot.block]->ops)
        (op.recompute ? n.recompute : n.model) +=
            role.ranks * sim::flops(program.blocks[slot.block]->works[op.work]).si;
  return n;
}

struct LowerCase {
  ScheduleKind kind;
  int pp, vpp, tp, dp, ep, micro_batches;
};
const LowerCase kCases[] = {
    {ScheduleKind::OneFOneB, 1, 1, 1, 1, 1, 3},  {ScheduleKind::OneFOneB, 4, 1, 2, 2, 4, 8},
    {ScheduleKind::GPipe, 2, 1, 1, 4, 4, 4},     {ScheduleKind::Interleaved, 4, 3, 1, 2, 2, 8},
    {ScheduleKind::ZbH1, 4, 1, 1, 2, 1, 8},      {ScheduleKind::ZbV, 4, 2, 1, 2, 2, 8},
    {ScheduleKind::DualPipe, 4, 1, 1, 4, 4, 12}, {ScheduleKind::DualPipeV, 4, 2, 1, 2, 2, 10},
};

}  // namespace

TEST_CASE(
    "a Program runs the model's flops: 6 per matrix parameter and token, attention, no layer "
    "dropped") {
  const StepShape step{.seq = 256};
  for (const ModelShape& m : {moe_model(), dense_model()})
    for (const LowerCase& c : kCases) {
      if (!m.moe && c.ep > 1) continue;
      const Plan p = plan_of(m, c.kind, c.pp, c.vpp, c.tp, c.dp, c.ep);
      StepShape s = step;
      s.global_batch = c.micro_batches * c.dp;
      const Schedule schedule = make_schedule(c.kind, c.pp, c.vpp, c.micro_batches);
      Lowering lowering(m, cluster(world_size(p)), {});
      const Count n = count(lowering.lower(p, s, schedule));
      // Attention's backward has five products where its forward has two; model flops count four.
      const double tokens = static_cast<double>(s.global_batch) * s.seq;
      const auto layers = static_cast<double>(m.layers + m.mtp_depth);
      sim::Attention a{.heads = m.heads, .seq_q = s.seq, .seq_k = s.seq};
      a.qk_dim = m.mla ? 96 : 64;
      a.v_dim = 64;
      const double forward = sim::flops(a).si;
      a.backward = true;
      const double extra = (sim::flops(a).si - 2 * forward) / s.seq * layers;
      const double expected = tokens * (train_flops_per_token(m, s.seq, true).si + extra);
      INFO(m.name << " pp " << c.pp << " kind " << static_cast<int>(c.kind));
      CHECK(n.model ==
            Approx(expected).epsilon(0.004));  // norms and biases counted as matrices in `expected`
      CHECK(n.recompute == 0);
    }
}

TEST_CASE("full recomputation repeats the forward pass of every layer once") {
  const ModelShape m = dense_model();
  Plan p = plan_of(m, ScheduleKind::OneFOneB, 2, 1, 1, 1, 1);
  const StepShape step{.seq = 256, .global_batch = 4};
  const Schedule schedule = make_schedule(p.schedule, 2, 1, 4);
  Lowering lowering(m, cluster(2), {});
  p.recompute.mode = Recompute::Mode::Full;
  const Count n = count(lowering.lower(p, step, schedule));
  ModelShape headless = m;
  headless.vocab = 0;
  CHECK(n.recompute ==
        Approx(4 * 256 * train_flops_per_token(headless, 256, true).si / 3).epsilon(0.004));
}

TEST_CASE(
    "every message has a sender that comes first, and pairs of stages exchange as many bytes as "
    "passes") {
  const ModelShape m = moe_model();
  for (const LowerCase& c : kCases) {
    const Plan p = plan_of(m, c.kind, c.pp, c.vpp, c.tp, c.dp, c.ep);
    const StepShape step{.seq = 256, .global_batch = c.micro_batches * c.dp};
    Lowering lowering(m, cluster(world_size(p)), {});
    const sim::Program program =
        lowering.lower(p, step, make_schedule(c.kind, c.pp, c.vpp, c.micro_batches));
    std::size_t messages = 0;
    for (const sim::Role& role : program.roles) {
      CHECK(!role.slots.empty());
      for (const sim::Message& x : role.messages) {
        CHECK(x.role < program.roles.size());
        CHECK(x.slot < program.roles[x.role].slots.size());
      }
      messages += role.messages.size() * role.ranks;
    }
    // Chunk boundaries that cross ranks, forward and backward, once per micro-batch and
    // data-parallel rank.
    int boundaries = 0;
    for (int chunk = 0; chunk + 1 < c.pp * c.vpp; ++chunk)
      boundaries += rank_of(c.kind, c.pp, c.vpp, c.micro_batches, chunk, 0) !=
                    rank_of(c.kind, c.pp, c.vpp, c.micro_batches, chunk + 1, 0);
    CHECK(messages ==
          static_cast<std::size_t>(2 * boundaries * c.micro_batches * world_size(p) / c.pp));
    sim::BlockTimes times([](const sim::Work&) { return sim::OpCost{.alone = 1 * us}; },
                          Seconds(0));
    CHECK(sim::run_folded(program, times).end.ps > 0);  // no circle
  }
}

TEST_CASE("groups: consecutive ranks fill nodes, tensor parallel first") {
  const Plan p{.tp = 2, .pp = 4, .dp = 8, .cp = 2, .ep = 8, .etp = 1};
  const Groups g = groups(p, cluster(128));
  CHECK(g.tp == sim::Group{2, 2});
  CHECK(g.cp == sim::Group{2, 2});
  CHECK(g.dp == sim::Group{8, 2});
  CHECK(g.dp_cp == sim::Group{16, 4});
  CHECK(g.ep == sim::Group{8, 8});
  CHECK(g.edp == sim::Group{4, 1});
  CHECK(g.pipe_inter_node);
}
