#include "planner/memory.h"

#include <catch2/catch.hpp>
#include <chrono>

#include "hw-models/catalog.h"
#include "planner/activations.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

ModelShape gpt3() {
  ModelShape m{.layers = 96, .hidden = 12288, .ffn = 49152, .heads = 96, .kv_heads = 96};
  m.head_dim = 128;
  m.vocab = 51200;
  m.max_positions = 2048;
  m.mlp = Mlp::Gelu;
  m.norm = Norm::LayerNorm;
  m.positions = Positions::Learned;
  m.linear_bias = m.tied_embeddings = true;
  return m;
}

ModelShape deepseek_v3() {
  ModelShape m{.layers = 61, .hidden = 7168, .ffn = 18432, .heads = 128, .kv_heads = 128};
  m.mla = Mla{.q_lora = 1536, .kv_lora = 512, .qk_nope = 128, .qk_rope = 64, .v = 128};
  m.moe = Moe{.experts = 256,
              .top_k = 8,
              .ffn = 2048,
              .shared_ffn = 2048,
              .score = RouterScore::Sigmoid,
              .groups = 8,
              .limited_groups = 4,
              .layers = std::vector<bool>(61, true)};
  for (std::size_t l = 0; l < 3; ++l) m.moe->layers[l] = false;
  m.vocab = 129280;
  m.mtp_depth = 1;
  return m;
}

Plan deepseek_plan() {
  Plan p{.pp = 16, .dp = 128, .ep = 64, .schedule = ScheduleKind::DualPipe};
  p.precision = Precision::Fp8DeepSeek;
  p.recompute = {Recompute::Mode::Selective, kNorm | kMlaUp | kActivation};
  p.layout = balanced_layout({.layers = 61, .mtp = 1}, 16, true);
  return p;
}

double layer_bytes(const ModelShape& m, const Plan& p, const hw::Stack& stack, int seq) {
  double sum = 0;
  for (const SavedTensor& t : layer_tensors(m, p, stack, seq, false))
    if (t.needed != SavedTensor::Needed::ForW) sum += t.elements * t.bytes_each;
  return sum;
}

double part(const RankMemory& r, Cause c) {
  return r.at_peak[static_cast<int>(c)].si;
}

Plan layers_only(int pp, int vpp, int layers, ScheduleKind kind) {
  Plan p{.pp = pp, .vpp = vpp, .schedule = kind};
  p.layout = balanced_layout({.layers = layers}, pp * vpp);
  p.layout.front().embedding = p.layout.back().head = false;
  return p;
}

}  // namespace

TEST_CASE("an unfused GPT layer keeps s b h (34 + 5 a s / h) bytes (Korthikanti 2022, eq. 1)") {
  const hw::Stack& stack = hw::stack("megatron-2022");
  const double s = 2048, b = 1, h = 12288, a = 96;
  Plan p;
  CHECK(layer_bytes(gpt3(), p, stack, 2048) == s * b * h * (34 + 5 * a * s / h));
  // Equation 2: tensor parallelism alone leaves 10 s b h on every rank; equation 4: with sequence
  // parallelism all of it is split.
  p.tp = 8;
  p.sequence_parallel = false;
  CHECK(layer_bytes(gpt3(), p, stack, 2048) == s * b * h * (10 + 24 / 8. + 5 * a * s / (h * 8)));
  p.sequence_parallel = true;
  CHECK(layer_bytes(gpt3(), p, stack, 2048) == s * b * h / 8 * (34 + 5 * a * s / h));
  // Selective recomputation drops the attention square (equation 6).
  p.recompute = {Recompute::Mode::Selective, kCoreAttention};
  CHECK(activation_sums(gpt3(), p, stack, 2048).dense.kept == s * b * h / 8 * 34);
}

TEST_CASE("W of a GPT layer needs 32 s b h bytes (Qi et al. 2024, table 1)") {
  const double s = 2048, h = 12288;
  CHECK(activation_sums(gpt3(), {}, hw::stack("megatron-2022"), 2048).dense.for_w == 32 * s * h);
}

TEST_CASE("per-module bytes of a chunk add up to what the walk adds per pass") {
  const hw::Stack& stack = hw::stack("deepseek");
  const ModelShape m = deepseek_v3();
  const Plan p = deepseek_plan();
  const Schedule s = make_schedule(p.schedule, 16, 1, 120);
  const auto points = memory_over_time(m, p, stack, {.seq = 4096, .global_batch = 15360}, s, 5);
  REQUIRE(points.front().task.phase == sim::Phase::F);
  double sum = 0;
  for (const ActivationShare& a : activation_bytes(m, p, stack, 4096, points.front().task.chunk))
    sum += a.bytes.si;
  CHECK(points.front().activations.si == Approx(sum).epsilon(1e-12));
}

TEST_CASE("standing states of all ranks add up to the model") {
  // Sum over ranks of what is split = 1 copy per data-parallel replica of everything.
  const ModelShape m = deepseek_v3();
  const Params params = parameters(m);
  Plan p{.pp = 16, .dp = 128, .ep = 64};
  p.layout = balanced_layout({.layers = 61, .mtp = 1}, 16, true);
  const hw::Stack& stack = hw::stack("nemo-2025");
  const Schedule s = make_schedule(ScheduleKind::OneFOneB, 16, 1, 120);
  double weights = 0, optimizer = 0;
  for (const StandingMemory& r : standing_memory(m, p, stack, 4096, s)) {
    weights += r.weights.si;
    optimizer += r.optimizer.si;
  }
  double experts = 0;
  for (std::int64_t e : params.experts) experts += static_cast<double>(e);
  experts += static_cast<double>(params.experts.back());  // the MTP module's
  // The MTP module on the last stage has its own copy of the embedding.
  const double dense = static_cast<double>(params.total() + params.embedding) - experts;
  CHECK(weights == Approx(2 * (dense + experts / 64)).epsilon(1e-9));
  CHECK(optimizer == Approx(12 * (dense / 128 + experts / 64 / 2)).epsilon(1e-9));
}

TEST_CASE("one DeepSeek-V3 rank in the middle: four mixture layers, twice under DualPipe") {
  // Attention 187,107,328 + norms 2 x 7168; router 7168 x 256 + 256; shared expert 3 x 7168 x 2048;
  // 4 of 256 experts of the same size.
  const double expert = 3. * 7168 * 2048;
  const double dense = 187107328. + 2 * 7168 + 7168 * 256 + 256 + expert;
  const ModelShape m = deepseek_v3();
  const hw::Stack& stack = hw::stack("deepseek");
  Plan p = deepseek_plan();
  p.precision = Precision::Bf16;
  REQUIRE(p.layout[7].layers == 4);
  REQUIRE(p.layout[8].layers == 4);
  const Schedule both = make_schedule(ScheduleKind::DualPipe, 16, 1, 120);
  const StandingMemory dual = standing_memory(m, p, stack, 4096, both)[7];
  CHECK(dual.weights.si == Approx(2 * 2 * 4 * (dense + 4 * expert)).epsilon(1e-9));
  CHECK(dual.gradients.si == Approx(2 * dual.weights.si).epsilon(1e-9));
  p.schedule = ScheduleKind::OneFOneB;
  const Schedule once = make_schedule(ScheduleKind::OneFOneB, 16, 1, 120);
  const StandingMemory single = standing_memory(m, p, stack, 4096, once)[7];
  CHECK(dual.weights.si == Approx(2 * single.weights.si).epsilon(1e-9));
  // ZeRO-1: 8 bytes (fp32 master, bf16 moments); the two copies of a chunk share one set.
  CHECK(single.optimizer.si == Approx(8 * 4 * (dense / 128 + 4 * expert / 2)).epsilon(1e-9));
  CHECK(dual.optimizer.si == Approx(single.optimizer.si).epsilon(1e-9));
}

TEST_CASE("ZeRO stages split what they say") {
  const ModelShape m = gpt3();
  hw::Stack stack = hw::stack("megatron-2022");
  Plan p{.tp = 8, .dp = 16};
  p.layout = balanced_layout({.layers = 96}, 1);
  const Schedule s = make_schedule(ScheduleKind::OneFOneB, 1, 1, 1);
  const auto states = [&](Zero z) {
    p.zero = z;
    return standing_memory(m, p, stack, 2048, s)[0];
  };
  const StandingMemory none = states(Zero::None), one = states(Zero::Optimizer),
                       two = states(Zero::Gradients), three = states(Zero::Full);
  CHECK(one.optimizer.si == Approx(none.optimizer.si / 16));
  CHECK(one.gradients.si == none.gradients.si);
  CHECK(two.gradients.si == Approx(none.gradients.si / 16));
  CHECK(two.weights.si == none.weights.si);
  CHECK(three.weights.si == Approx(none.weights.si / 16));
  p.shard_group = 4;
  CHECK(states(Zero::Optimizer).optimizer.si == Approx(none.optimizer.si / 4));
}

TEST_CASE("passes in flight at the peak: 1F1B pp - r, GPipe all, interleaved as published") {
  const ModelShape m = gpt3();
  const hw::Stack& stack = hw::stack("megatron-2022");
  const StepShape step{.seq = 2048, .global_batch = 32};
  const auto use = [&](ScheduleKind kind, int vpp) {
    return memory_use(m, layers_only(8, vpp, 96, kind), stack, step,
                      make_schedule(kind, 8, vpp, 32));
  };
  for (int r = 0; r < 8; ++r) {
    const auto i = static_cast<std::size_t>(r);
    CHECK(use(ScheduleKind::OneFOneB, 1).ranks[i].micro_batches_in_flight == 8 - r);
    CHECK(use(ScheduleKind::GPipe, 1).ranks[i].micro_batches_in_flight == 32);
  }
  // Korthikanti 2022, section 4.2.3: the first stage keeps L (1 + (p - 1) / (p m)) layers.
  const double layer =
      activation_sums(m, layers_only(8, 3, 96, ScheduleKind::Interleaved), stack, 2048).dense.kept;
  CHECK(part(use(ScheduleKind::Interleaved, 3).ranks[0], Cause::Activations) ==
        Approx(layer * 96 * (1 + 7. / 24)));
}

TEST_CASE("activations return to zero at the end of every schedule and are never negative") {
  const ModelShape m = gpt3();
  const hw::Stack& stack = hw::stack("megatron-2022");
  struct Case {
    ScheduleKind kind;
    int vpp;
  };
  for (const Case c : {Case{ScheduleKind::GPipe, 1}, Case{ScheduleKind::OneFOneB, 1},
                       Case{ScheduleKind::Interleaved, 2}, Case{ScheduleKind::ZbH1, 1},
                       Case{ScheduleKind::ZbH2, 1}, Case{ScheduleKind::ZbV, 2},
                       Case{ScheduleKind::DualPipe, 1}, Case{ScheduleKind::DualPipeV, 2}}) {
    for (const auto mode : {Recompute::Mode::None, Recompute::Mode::Full}) {
      Plan p{.pp = 4, .vpp = c.vpp, .schedule = c.kind};
      p.layout = balanced_layout({.layers = 96}, 4 * c.vpp);
      p.recompute.mode = mode;
      const Schedule s = make_schedule(c.kind, 4, c.vpp, 16);
      for (int r = 0; r < 4; ++r) {
        const auto points = memory_over_time(m, p, stack, {.seq = 2048, .global_batch = 16}, s, r);
        double highest = 0;
        for (const MemoryPoint& x : points) {
          highest = std::max(highest, x.highest.si);
          CHECK(x.activations.si > -1);
          CHECK(x.highest.si >= x.activations.si - 1);
        }
        CHECK(points.back().passes == 0);
        CHECK(std::abs(points.back().activations.si) < 1e-6 * highest);
      }
    }
  }
}

TEST_CASE("memory of a 16-stage plan takes tens of microseconds") {
  const ModelShape m = deepseek_v3();
  const hw::Stack& stack = hw::stack("deepseek");
  const Plan p = deepseek_plan();
  const Schedule s = make_schedule(p.schedule, 16, 1, 120);
  const StepShape step{.seq = 4096, .global_batch = 15360};
  const auto start = std::chrono::steady_clock::now();
  double sum = 0;
  for (int i = 0; i < 200; ++i) sum += memory_use(m, p, stack, step, s).peak.si;
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  WARN("memory_use: " << took.count() / 200 << " us, peak " << sum / 200 / GiB.si << " GiB");
  CHECK(took.count() / 200 < 2000);  // slack for sanitizers and loaded machines
}
