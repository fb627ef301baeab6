// A training run, as one of its ranks: model, weights, groups, executor, data.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "hw-models/stack.h"
#include "planner/lower.h"
#include "real/devices.h"
#include "real/executor.h"

namespace reckon::real {

// While the batch ramps it is b(T) = from + (batch - from) T / tokens sequences at T tokens,
// rounded down to one that the plan can run. `from` 0: no ramp.
struct BatchRamp {
  std::int64_t from = 0;
  double tokens = 0;
};

// What all ranks of a run agree on.
struct Job {
  plan::ModelShape model;
  hw::Cluster cluster;  // for its node size alone: which group members share a node
  hw::Stack stack;      // Stack::reckon_ops
  plan::Plan plan;
  plan::StepShape step;  // at the end of the ramp
  Recipe recipe;
  BatchRamp ramp;
  std::string vocabulary = {};  // what token ids mean, for checkpoints to tell
};

// What the trainer can't do with a model or a plan that the planner allows, or nothing.
std::optional<std::string> why_untrainable(const Job& job);

struct StepResult {
  std::int64_t step = 0;  // from 1
  double loss = 0;        // mean cross-entropy of next tokens, nats
  double mtp_loss = 0;    // mean over MTP modules
  double gradient_norm = 0, lr = 0;
  std::int64_t sequences = 0;   // of this step
  double seconds = 0;           // of this rank
  std::int64_t peak = 0;        // most bytes that this rank held at once
  Meter::ByHolds at_peak = {};  // what they were for
};

// Writes the `index`-th sequence since the start of training, with the tokens behind it that are
// targets: seq + 1 + MTP depth ids (see token_data.h). Called by every rank that needs it.
using Sequences = std::function<void(std::int64_t index, std::int32_t* out)>;

class Trainer {
 public:
  // Collective over all ranks of the transport; as many as the plan needs. Without `sequences`
  // tokens are pseudo-random. On a CPU core without `equipment`.
  Trainer(const Job& job, Transport& transport, Sequences sequences = nullptr,
          std::unique_ptr<Equipment> equipment = nullptr);

  StepResult step(bool record = false);
  std::int64_t steps_done() const { return done_; }
  std::int64_t sequences_done() const { return sequences_done_; }

  // Collective. The newest `keep` checkpoints stay.
  void save(const std::string& directory, int keep = 3);
  // Continues from the newest whole checkpoint of the directory; false if there is none. Under any
  // plan that holds the same model. `damage`: what was skipped, and why. Throws InputError for a
  // checkpoint of another model, vocabulary or seed.
  bool resume(const std::string& directory, std::vector<std::string>* damage);
  void resume(const Checkpoint& checkpoint);

  // Of the step that was run last, or will be first.
  const Executor& executor() const { return *run_->executor; }
  const sim::Program& program() const { return run_->program; }
  Meter& meter() { return *meter_; }
  Group& world() { return groups_.world->host(); }
  Device& device() { return *equipment_->device; }
  const Place& place() const { return place_; }
  Weights& weights() { return *weights_; }
  Optimizer& optimizer() { return *optimizer_; }

 private:
  // What a global batch shapes.
  struct Run {
    plan::StepShape step;
    plan::Schedule schedule;
    sim::Program program;
    std::unique_ptr<Ops> ops;
    std::unique_ptr<Executor> executor;
  };

  std::int64_t next_batch() const;
  void lower(std::int64_t global_batch);  // fills run_, but for what needs weights
  void make_executor();                   // the rest of it
  void ids(std::uint32_t micro_batch, std::int32_t* out) const;
  std::string metadata() const;

  Job job_;
  Place place_;
  std::vector<std::int64_t> batches_;  // that the ramp may use, ascending; the last is the full one
  plan::Lowering lowering_;
  std::unique_ptr<Equipment> equipment_;
  std::unique_ptr<Meter> meter_;
  Groups groups_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Optimizer> optimizer_;
  Sequences sequences_;
  std::unique_ptr<Run> run_;
  std::int64_t done_ = 0, sequences_done_ = 0;
};

}  // namespace reckon::real
