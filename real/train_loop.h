// A training run from its first step to its last, as one of its ranks: steps, log, checkpoints.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "real/checkpoint.h"
#include "real/token_data.h"
#include "real/trainer.h"

namespace reckon::real {

// The newest checkpoint, opened by the first rank of this process that asks: opening reads every
// byte. Closed when all ranks have loaded it.
struct SharedCheckpoint {
  std::mutex mutex;
  bool asked = false;
  std::optional<Checkpoint> newest;
  std::vector<std::string> damage;
};

struct TrainingRun {
  Job job;
  const TokenData& data;
  plan::Training settings;  // its recipe is the job's; paths as the process sees them
  std::int64_t steps = 0;   // the run ends behind this one, counted from the start of training
  bool resume = false;
  std::string log;  // file of JSON lines; empty: none
  DeviceChoice device;
  const std::atomic<bool>& stop;
  std::function<void(const StepResult&)> progress;  // on rank 0, after each step; may be empty
  std::shared_ptr<SharedCheckpoint> shared = std::make_shared<SharedCheckpoint>();
};

struct TrainingResult {
  std::int64_t first = 0, last = 0;  // steps that were run, if any: first <= last
  std::int64_t tokens = 0;           // of these steps
  double seconds = 0;                // in steps
  double first_loss = 0;
  double loss = 0, mtp_loss = 0;  // mean of the last `averaged` steps
  int averaged = 0;
  bool stopped = false;    // by the flag
  std::string checkpoint;  // folder of the last one; empty: none
};

// Collective: every rank calls it with the same run. What all return is the same.
//
// A line of the log: {"step", "loss", "mtp_loss", "grad_norm", "lr", "tokens" (since the start of
// training), "seconds", "tokens_per_s"}. On resuming, lines of steps behind the checkpoint are
// dropped.
//
// Throws InputError (nothing to resume from, a checkpoint that is in the way, a log or a checkpoint
// that can't be written), Diverged. A checkpoint that can't be written is an error at the end of
// the run, before that a warning.
TrainingResult train(const TrainingRun& run, Transport& transport);

}  // namespace reckon::real
