// A training run that is interrupted and goes on, under the same plan or another one.
#include <catch2/catch.hpp>
#include <mutex>

#include "real/train_loop.h"
#include "sim/input_error.h"
#include "tests/real/temporary_folder.h"
#include "tests/real/training.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::real;

namespace {

constexpr int kHalf = 5;  // steps

// Goes on from the newest checkpoint of the folder, if any, until `steps` are done, and saves.
std::vector<double> go_on(const Job& job, const std::string& folder, int steps) {
  std::vector<double> losses;
  run_local(world_size(job.plan), [&](Transport& transport) {
    Trainer trainer(job, transport);
    trainer.resume(folder, nullptr);
    while (trainer.steps_done() < steps) {
      const double loss = trainer.step().loss;
      if (transport.rank() == 0) losses.push_back(loss);
    }
    trainer.save(folder, 10);
  });
  return losses;
}

// Everything of the newest checkpoint, as the serial plan holds it.
Outcome loaded(Job job, const std::string& folder) {
  job.plan = {
      .schedule = ScheduleKind::GPipe,
      .layout = balanced_layout({.layers = job.model.layers, .mtp = job.model.mtp_depth}, 1),
      .precision = job.plan.precision,
      .zero = Zero::None};
  Outcome out;
  run_local(1, [&](Transport& transport) {
    Trainer trainer(job, transport);
    REQUIRE(trainer.resume(folder, nullptr));
    for (const SavedPiece& p : trainer.optimizer().saved())
      out.tensors[p.piece.tensor].assign(p.values, p.values + p.piece.count);
  });
  return out;
}

const Plan kDualPipe{
    .pp = 2, .schedule = ScheduleKind::DualPipe, .overlap = {.expert = Overlap::Expert::Pair}};
const Plan kExperts{.dp = 2, .ep = 2, .schedule = ScheduleKind::OneFOneB};
const Plan kTensor{.tp = 2, .schedule = ScheduleKind::OneFOneB};
const Plan kContext{.cp = 2, .schedule = ScheduleKind::OneFOneB};

}  // namespace

TEST_CASE("N steps, a checkpoint and N more steps are 2N steps, bit for bit") {
  for (const Plan& p : {kDualPipe, kExperts, kTensor}) {
    for (const Precision precision : {Precision::Fp32, Precision::Fp8DeepSeek}) {
      Job job = tiny_job(tiny_deepseek(), p);
      job.plan.precision = precision;
      CAPTURE(describe(job.plan));
      const TemporaryFolder halves, whole;
      go_on(job, halves.path, kHalf);
      const auto second = go_on(job, halves.path, 2 * kHalf);
      const auto all = go_on(job, whole.path, 2 * kHalf);
      CHECK(std::vector<double>(all.begin() + kHalf, all.end()) == second);
      CHECK(identical(loaded(job, halves.path), loaded(job, whole.path)));
    }
  }
}

TEST_CASE("a checkpoint goes on under another plan as under its own") {
  const std::pair<Plan, Plan> changes[] = {
      {kDualPipe, kExperts}, {kExperts, kDualPipe}, {kTensor, kContext}, {kContext, kTensor}};
  for (const auto& [from, to] : changes) {
    const Job before = tiny_job(tiny_deepseek(), from), after = tiny_job(tiny_deepseek(), to);
    CAPTURE(describe(before.plan), describe(after.plan));
    const TemporaryFolder changed, same;
    for (const auto* folder : {&changed, &same}) go_on(before, folder->path, kHalf);
    Outcome a, b;
    a.losses = go_on(after, changed.path, 2 * kHalf);
    b.losses = go_on(before, same.path, 2 * kHalf);
    a.tensors = loaded(before, changed.path).tensors;
    b.tensors = loaded(before, same.path).tensors;
    CHECK(difference(a, b) <= 1e-5);
  }
}

TEST_CASE("a checkpoint of another model, vocabulary or seed is refused, with the difference") {
  Job job = tiny_job(tiny_mixture(), {.schedule = ScheduleKind::GPipe});
  job.vocabulary = "a";
  const TemporaryFolder folder;
  go_on(job, folder.path, 1);
  const auto refused = [&](auto change, const std::string& why) {
    Job other = job;
    change(other);
    CHECK_THROWS_AS(go_on(other, folder.path, 2), InputError);
    CHECK_THROWS_WITH(go_on(other, folder.path, 2), Catch::Contains(why));
  };
  refused([](Job& j) { j.recipe.seed = 7; }, "seed 1, here 7");
  refused([](Job& j) { j.vocabulary = "b"; }, "vocabulary a, here b");
  refused([](Job& j) { j.model.moe->ffn = 32; }, "another model: moe.ffn 16, here 32");
  refused([](Job& j) { j.model.rope_theta = 5e5; }, "another model: rope_theta");
  // A name does not make a model.
  Job renamed = job;
  renamed.model.name = "another";
  CHECK(go_on(renamed, folder.path, 2).size() == 1);
}

TEST_CASE("the batch ramps with the tokens seen, under every plan, and across a checkpoint") {
  // From 2 to 8 sequences over 32 sequences: b = 2 + 6 n / 32, rounded down to one that dp 2 can
  // run. n: 0 2 4 6 8 10 12 16 20 24 30 36.
  const std::vector<std::int64_t> expected = {2, 2, 2, 2, 2, 2, 4, 4, 4, 6, 6, 8};
  const auto run = [&](Plan plan, const std::string& folder, std::vector<int> until) {
    Job job = tiny_job(tiny_mixture(), std::move(plan));
    job.ramp = {.from = 2, .tokens = 32.0 * job.step.seq};
    std::vector<double> losses;
    std::vector<std::int64_t> batches;
    for (const int steps : until)
      run_local(world_size(job.plan), [&](Transport& transport) {
        Trainer trainer(job, transport);
        trainer.resume(folder, nullptr);
        while (trainer.steps_done() < steps) {
          const StepResult r = trainer.step();
          if (transport.rank() != 0) continue;
          losses.push_back(r.loss);
          batches.push_back(r.sequences);
        }
        trainer.save(folder, 2);
      });
    CHECK(batches == expected);
    return losses;
  };
  const int n = static_cast<int>(expected.size());
  const TemporaryFolder a, b, c;
  const auto whole = run({.dp = 2}, a.path, {n}), halves = run({.dp = 2}, b.path, {7, n});
  CHECK(whole == halves);
  const auto micro = run({.micro_batch = 2}, c.path, {n});
  for (std::size_t i = 0; i < whole.size(); ++i)
    CHECK(micro[i] == Approx(whole[i]).epsilon(1e-5).margin(0));
}

TEST_CASE("a run that diverges says so and leaves its checkpoint alone") {
  Job job = tiny_job(tiny_mixture(), {.dp = 2});
  const TemporaryFolder folder;
  go_on(job, folder.path, 1);
  const Outcome before = loaded(job, folder.path);
  job.recipe.lr = 1e30;
  CHECK_THROWS_AS(go_on(job, folder.path, 10), Diverged);
  CHECK_THROWS_WITH(go_on(job, folder.path, 10), Catch::Contains("not finite"));
  CHECK(identical(before, loaded(job, folder.path)));
}
