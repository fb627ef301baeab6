#include "planner/campaign.h"

#include <catch2/catch.hpp>

namespace reckon::plan {
namespace {

// Slow reference: take the steps one by one.
struct Walked {
  std::int64_t steps = 0;
  double seconds = 0;
};
Walked walk(const PhaseOfCampaign& p, double fixed, double per_sequence) {
  Walked w;
  for (double done = 0; done < p.tokens; ++w.steps) {
    double b = static_cast<double>(p.global_batch);
    if (done < p.batch_ramp_tokens)
      b = static_cast<double>(p.batch_ramp_from) +
          static_cast<double>(p.global_batch - p.batch_ramp_from) * done / p.batch_ramp_tokens;
    w.seconds += fixed + per_sequence * b;
    done += b * p.seq;
  }
  return w;
}

// DeepSeek-V3 pre-training (report, section 4.2): batch 3072 to 15360 in the first 469B of 14.8T
// tokens.
PhaseOfCampaign deepseek_pretraining() {
  return {.name = "pre-training",
          .seq = 4096,
          .global_batch = 15360,
          .tokens = 14.8e12,
          .batch_ramp_from = 3072,
          .batch_ramp_tokens = 469e9};
}

}  // namespace

TEST_CASE("steps = ceil(tokens / (batch x seq))") {
  PhaseOfCampaign p{.seq = 4096, .global_batch = 1024, .tokens = 1000. * 1024 * 4096};
  CHECK(length(p).steps == 1000);
  p.tokens += 1;
  CHECK(length(p).steps == 1001);
  PhaseOfCampaign steps{.seq = 32768, .global_batch = 1920, .steps = 1000};
  CHECK(length(steps).tokens == 1000. * 1920 * 32768);
}

TEST_CASE("a ramp in closed form equals the walk step by step") {
  const PhaseOfCampaign p = deepseek_pretraining();
  const double fixed = 2.5, per_sequence = 1.13e-3;
  const Walked slow = walk(p, fixed, per_sequence);
  CHECK(length(p).steps == Approx(slow.steps).epsilon(2e-5));
  const auto bill = phase_bill(p, 2048, 128, [&](std::int64_t b) -> std::optional<Seconds> {
    return Seconds(fixed + per_sequence * static_cast<double>(b));
  });
  REQUIRE(bill);
  CHECK(bill->gpu_hours == Approx(slow.seconds * 2048 / 3600).epsilon(2e-5));
}

TEST_CASE("a ramp longer than the phase is cut") {
  PhaseOfCampaign p = deepseek_pretraining();
  p.tokens = 100e9;
  CHECK(length(p).steps == Approx(walk(p, 1, 0).steps).epsilon(1e-3));
  // The same phase, told by its steps.
  PhaseOfCampaign by_steps = p;
  by_steps.steps = length(p).steps;
  by_steps.tokens = 0;
  CHECK(length(by_steps).tokens == Approx(p.tokens).epsilon(1e-3));
}

TEST_CASE("a ramp starts its line at the smallest batch that the plan can run") {
  const PhaseOfCampaign p = deepseek_pretraining();
  std::vector<std::int64_t> asked;
  const auto bill = phase_bill(p, 2048, 128, [&](std::int64_t b) -> std::optional<Seconds> {
    asked.push_back(b);
    if (b < 4096) return std::nullopt;  // DualPipe wants 2 pp micro-batches on each of 128 ranks
    return Seconds(1 + 1e-3 * static_cast<double>(b));
  });
  REQUIRE(bill);
  CHECK(asked.back() == 4096);
  CHECK(bill->gpu_hours == Approx(walk(p, 1, 1e-3).seconds * 2048 / 3600).epsilon(2e-5));
  CHECK_FALSE(phase_bill(p, 2048, 128, [](std::int64_t) { return std::optional<Seconds>(); }));
}

TEST_CASE("180K GPU-hours a trillion tokens are 3.7 days on 2048 GPUs") {
  // DeepSeek-V3 report, section 1: both figures are printed.
  hw::Cluster cluster{.gpus = 2048, .price_per_gpu_hour = 2};
  const Bill bill = total({{.gpu_hours = 180e3}}, cluster);
  CHECK(bill.days == Approx(3.7).epsilon(0.02));
  CHECK(bill.money == 360e3);
}

TEST_CASE("the binding line is the one with the largest share of its limit") {
  hw::Cluster cluster{.gpus = 100, .price_per_gpu_hour = 3};
  const Bill bill = total({{.gpu_hours = 24000}}, cluster);  // 10 days, 72000 USD
  const Verdict fits = verdict(bill, {.gpu_hours = 30000, .days = 20, .money = 73000});
  CHECK(fits.meets);
  CHECK(fits.lines[*fits.binding].what == BudgetLine::What::Money);
  const Verdict late = verdict(bill, {.gpu_hours = 30000, .days = 9});
  CHECK_FALSE(late.meets);
  CHECK(late.lines[*late.binding].what == BudgetLine::What::Days);
  const Verdict free = verdict(bill, {});
  CHECK(free.meets);
  CHECK_FALSE(free.binding);
}

}  // namespace reckon::plan
