// The same short training run over any transport: what a rank ends with, in one number.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "real/disk_file.h"
#include "tests/real/training.h"

namespace reckon::real {

// The last loss and all that this rank would save, in one number.
inline std::uint64_t digest_of(Trainer& trainer, double loss) {
  std::uint64_t digest = checksum(&loss, sizeof loss);
  for (const SavedPiece& p : trainer.optimizer().saved()) {
    digest = checksum(p.piece.tensor.data(), p.piece.tensor.size(), digest);
    digest = checksum(p.values, static_cast<std::size_t>(p.piece.count) * sizeof(float), digest);
  }
  return digest;
}

// Plans of 4 ranks, one of each kind of exchange.
inline std::vector<plan::Plan> plans_of_four() {
  using enum plan::ScheduleKind;
  const plan::Overlap pairs{.expert = plan::Overlap::Expert::Pair};
  const plan::Recompute full{plan::Recompute::Mode::Full};
  return {
      {.dp = 2, .cp = 2},
      {.pp = 2, .vpp = 2, .dp = 2, .schedule = Interleaved},
      {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = ZbV},
      {.pp = 2, .dp = 2, .ep = 2, .schedule = OneFOneB, .recompute = full},
      {.pp = 4, .schedule = ZbH2},
      {.pp = 4, .schedule = DualPipe, .overlap = pairs},
      {.tp = 2, .pp = 2, .schedule = ZbH1},
      {.tp = 2, .cp = 2},
      {.dp = 4, .ep = 4},
  };
}

// What a rank ends with after `steps` of plans_of_four()[k].
inline std::uint64_t digest_of_plan(Transport& transport, std::size_t k, int steps) {
  Trainer trainer(tiny_job(tiny_deepseek(), plans_of_four().at(k)), transport);
  double loss = 0;
  for (int i = 0; i < steps; ++i) loss = trainer.step().loss;
  return digest_of(trainer, loss);
}

// Trains a tiny mixture of experts with DualPipe on 4 ranks, all communicators in use, up to step
// `steps`. With a directory: continues from its newest checkpoint, and saves every step.
// `before_step` is told the number of steps done. Returns the checksum of the last loss and of all
// that this rank would save.
inline std::uint64_t trained_digest(
    Transport& transport, std::int64_t steps, const std::string& directory = "",
    const std::function<void(std::int64_t)>& before_step = [](std::int64_t) {}) {
  const Job job = tiny_job(tiny_deepseek(), {.pp = 2,
                                             .dp = 2,
                                             .ep = 2,
                                             .schedule = plan::ScheduleKind::DualPipe,
                                             .overlap = {.expert = plan::Overlap::Expert::Pair}});
  Trainer trainer(job, transport);
  if (!directory.empty()) trainer.resume(directory, nullptr);
  double loss = 0;
  while (trainer.steps_done() < steps) {
    before_step(trainer.steps_done());
    loss = trainer.step().loss;
    if (!directory.empty()) trainer.save(directory);
  }
  return digest_of(trainer, loss);
}

}  // namespace reckon::real
