// Whatever the plan, the same training: losses, final weights and optimizer states after 20 steps
// against the serial run. Where a plan leaves the order of every sum as it is, bit for bit:
// pipelines do, unless the embedding has copies on several stages (MTP, tied heads); all other
// dimensions add in another order.
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <map>

#include "tests/real/training.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::real;

namespace {

constexpr int kSteps = 20;

struct Case {
  const char* name;
  Plan plan;
  bool bitwise = false;
};

const ScheduleKind kSerial = ScheduleKind::GPipe;

void check_all(const ModelShape& model, const std::vector<Case>& cases) {
  const Plan serial{.schedule = kSerial, .zero = Zero::None};
  const Outcome base = trained(tiny_job(model, serial), kSteps);
  REQUIRE(base.losses.front() > 0);
  for (const Case& c : cases) {
    DYNAMIC_SECTION(model.name << ": " << c.name) {
      const Outcome o = trained(tiny_job(model, c.plan), kSteps);
      const bool same = identical(base, o);
      const double d = difference(base, o);
      fmt::print("{:16} {:44} {}\n", model.name, c.name,
                 same ? "same bits" : fmt::format("{:.1e}", d));
      if (c.bitwise)
        CHECK(same);
      else
        CHECK(d <= 1e-5);
    }
  }
}

}  // namespace

TEST_CASE("every plan trains a DeepSeek-shaped model as the serial run does") {
  using enum ScheduleKind;
  using Mode = Recompute::Mode;
  const auto modules = [](std::uint32_t bits) { return Recompute{Mode::Selective, bits}; };
  const Overlap pairs{.expert = Overlap::Expert::Pair};
  check_all(
      tiny_deepseek(),
      {
          {"GPipe pp2", {.pp = 2, .schedule = GPipe}},
          {"1F1B pp2", {.pp = 2, .schedule = OneFOneB}},
          {"1F1B pp4", {.pp = 4, .schedule = OneFOneB}},
          {"interleaved pp2 vpp2", {.pp = 2, .vpp = 2, .schedule = Interleaved}},
          {"ZB-H1 pp2", {.pp = 2, .schedule = ZbH1}},
          {"ZB-H1 pp4", {.pp = 4, .schedule = ZbH1}},
          {"ZB-H2 pp2", {.pp = 2, .schedule = ZbH2}},
          {"ZB-V pp2", {.pp = 2, .vpp = 2, .schedule = ZbV}},
          {"DualPipe pp2", {.pp = 2, .schedule = DualPipe, .overlap = pairs}},
          {"DualPipe pp4", {.pp = 4, .schedule = DualPipe, .overlap = pairs}},
          {"DualPipeV pp2", {.pp = 2, .vpp = 2, .schedule = DualPipeV, .overlap = pairs}},
          {"recompute full", {.recompute = {Mode::Full}}, true},
          {"recompute norms", {.recompute = modules(kNorm)}, true},
          {"recompute activations", {.recompute = modules(kActivation)}, true},
          {"recompute MLA up-projections", {.recompute = modules(kMlaUp)}, true},
          {"recompute mixtures", {.recompute = modules(kMoe)}, true},
          {"recompute MLPs", {.recompute = modules(kMlp)}, true},
          {"recompute norms, mixtures and MLPs", {.recompute = modules(kNorm | kMoe | kMlp)}, true},
          {"tp2 ZB-H1 pp2 recompute all but attention",
           {.tp = 2,
            .pp = 2,
            .schedule = ZbH1,
            .recompute = modules(kNorm | kMoe | kMlp | kMlaUp | kActivation)}},
          {"recompute norms, activations, MLA, pp2",
           {.pp = 2, .recompute = modules(kNorm | kActivation | kMlaUp)}},
          {"dp2", {.dp = 2, .zero = Zero::None}},
          {"dp2 ZeRO-1", {.dp = 2}},
          {"dp4 ZeRO-1, gathers at the end", {.dp = 4, .overlap = {.param_gather = false}}},
          {"dp2, reductions at the end", {.dp = 2, .overlap = {.grad_reduce = false}}},
          {"ep2", {.dp = 2, .ep = 2}},
          {"ep2 without ZeRO", {.dp = 2, .ep = 2, .zero = Zero::None}},
          {"ep4", {.dp = 4, .ep = 4}},
          {"dp4 ep2", {.dp = 4, .ep = 2}},
          {"ep8", {.dp = 8, .ep = 8}},
          {"tp2", {.tp = 2}},
          {"tp4", {.tp = 4}},
          {"tp2 ep2", {.tp = 2, .ep = 2}},
          {"tp2 dp2 ep4", {.tp = 2, .dp = 2, .ep = 4}},
          {"tp2 recompute norms and MLA", {.tp = 2, .recompute = modules(kNorm | kMlaUp)}},
          {"tp2 ZB-H1 pp2", {.tp = 2, .pp = 2, .schedule = ZbH1}},
          {"cp2", {.cp = 2}},
          {"cp2 ep2", {.cp = 2, .ep = 2}},
          {"cp4", {.cp = 4}},
          {"tp2 cp2", {.tp = 2, .cp = 2}},
          {"micro-batches of 2", {.micro_batch = 2}},
          {"1F1B pp2 dp2 ep2", {.pp = 2, .dp = 2, .ep = 2, .schedule = OneFOneB}},
          {"interleaved pp2 vpp2 dp2 ep2 full recompute",
           {.pp = 2,
            .vpp = 2,
            .dp = 2,
            .ep = 2,
            .schedule = Interleaved,
            .recompute = {Mode::Full}}},
          {"ZB-V pp2 dp2 ep2", {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = ZbV}},
          {"DualPipe pp2 dp2 ep2",
           {.pp = 2, .dp = 2, .ep = 2, .schedule = DualPipe, .overlap = pairs}},
          {"DualPipe pp2 dp2 ep2 recompute mixtures, no ZeRO",
           {.pp = 2,
            .dp = 2,
            .ep = 2,
            .schedule = DualPipe,
            .recompute = modules(kMoe),
            .zero = Zero::None,
            .overlap = pairs}},
          {"DualPipeV pp2 dp2 ep2",
           {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = DualPipeV, .overlap = pairs}},
          {"pp2 tp2 cp2 ep4", {.tp = 2, .pp = 2, .cp = 2, .ep = 4}},
      });
}

TEST_CASE("YaRN changes the training, under any plan alike") {
  plan::ModelShape stretched = tiny_deepseek();
  stretched.yarn = Yarn{.factor = 8, .original_positions = 8, .mscale = 1, .mscale_all_dim = 0.5};
  const Plan serial{.schedule = kSerial, .zero = Zero::None};
  const Outcome plain = trained(tiny_job(tiny_deepseek(), serial), 2);
  const Outcome base = trained(tiny_job(stretched, serial), 2);
  CHECK(difference(plain, base) > 1e-4);
  CHECK(difference(base, trained(tiny_job(stretched, {.pp = 2, .cp = 2}), 2)) <= 1e-5);
  CHECK(identical(base, trained(tiny_job(stretched, {.recompute = {Recompute::Mode::Full}}), 2)));
}

TEST_CASE("every plan trains a mixture with grouped-query attention as the serial run does") {
  using enum ScheduleKind;
  check_all(
      tiny_mixture(),
      {
          {"GPipe pp2", {.pp = 2, .schedule = GPipe}, true},
          {"1F1B pp4", {.pp = 4, .schedule = OneFOneB}, true},
          {"interleaved pp2 vpp2", {.pp = 2, .vpp = 2, .schedule = Interleaved}, true},
          {"ZB-H1 pp4", {.pp = 4, .schedule = ZbH1}, true},
          {"ZB-H2 pp2", {.pp = 2, .schedule = ZbH2}, true},
          {"ZB-V pp2", {.pp = 2, .vpp = 2, .schedule = ZbV}, true},
          {"DualPipeV pp2",
           {.pp = 2, .vpp = 2, .schedule = DualPipeV, .overlap = {.expert = Overlap::Expert::Pair}},
           true},
          {"DualPipe pp2",
           {.pp = 2, .schedule = DualPipe, .overlap = {.expert = Overlap::Expert::Pair}}},
          {"tp2", {.tp = 2}},
          {"tp2 recompute norms", {.tp = 2, .recompute = {Recompute::Mode::Selective, kNorm}}},
          {"cp2 ep2", {.cp = 2, .ep = 2}},
          {"ep4", {.dp = 4, .ep = 4}},
          {"ZB-H2 pp2 dp2 ep2", {.pp = 2, .dp = 2, .ep = 2, .schedule = ZbH2}},
      });
}

TEST_CASE("every plan trains a dense model as the serial run does") {
  using enum ScheduleKind;
  check_all(tiny_gpt(), {
                            {"1F1B pp2", {.pp = 2, .schedule = OneFOneB}},
                            {"1F1B pp4", {.pp = 4, .schedule = OneFOneB}},
                            {"tp2", {.tp = 2}},
                            {"tp2 pp2", {.tp = 2, .pp = 2}},
                            {"dp2", {.dp = 2}},
                            {"ZB-V pp2", {.pp = 2, .vpp = 2, .schedule = ZbV}},
                        });
}
