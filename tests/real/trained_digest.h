// The same short training run over any transport: what a rank ends with, in one number.
#pragma once

#include <functional>
#include <string>

#include "real/disk_file.h"
#include "tests/real/training.h"

namespace reckon::real {

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
  std::uint64_t digest = checksum(&loss, sizeof loss);
  for (const SavedPiece& p : trainer.optimizer().saved()) {
    digest = checksum(p.piece.tensor.data(), p.piece.tensor.size(), digest);
    digest = checksum(p.values, static_cast<std::size_t>(p.piece.count) * sizeof(float), digest);
  }
  return digest;
}

}  // namespace reckon::real
