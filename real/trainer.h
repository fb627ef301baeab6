// A training run, as one of its ranks: model, weights, groups, executor, data.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "hw-models/stack.h"
#include "planner/lower.h"
#include "real/executor.h"

namespace reckon::real {

// What all ranks of a run agree on.
struct Job {
  plan::ModelShape model;
  hw::Cluster cluster;  // for its node size alone: which group members share a node
  hw::Stack stack;      // Stack::reckon_ops
  plan::Plan plan;
  plan::StepShape step;
  Recipe recipe;
};

// What the trainer can't do with a model or a plan that the planner allows, or nothing.
std::optional<std::string> why_untrainable(const Job& job);

struct StepResult {
  std::int64_t step = 0;  // from 1
  double loss = 0;        // mean cross-entropy of next tokens, nats
  double mtp_loss = 0;    // mean over MTP modules
  double gradient_norm = 0, lr = 0;
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
  // tokens are pseudo-random.
  Trainer(const Job& job, Transport& transport, Sequences sequences = nullptr);

  StepResult step(bool record = false);
  std::int64_t steps_done() const { return done_; }

  void save(const std::string& directory);
  // Continues from the newest whole checkpoint of the directory; false if there is none. Under any
  // plan that holds the same model. `damage`: what was skipped, and why.
  bool resume(const std::string& directory, std::vector<std::string>* damage);

  const Executor& executor() const { return *executor_; }
  const sim::Program& program() const { return program_; }
  Meter& meter() { return *meter_; }
  Group& world() { return *groups_.world; }
  const Place& place() const { return place_; }
  Weights& weights() { return *weights_; }
  Optimizer& optimizer() { return *optimizer_; }

 private:
  void ids(std::uint32_t micro_batch, std::int32_t* out) const;

  Job job_;
  Place place_;
  std::unique_ptr<Meter> meter_ = std::make_unique<Meter>();
  plan::Schedule schedule_;
  sim::Program program_;
  Groups groups_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Optimizer> optimizer_;
  Sequences sequences_;
  std::unique_ptr<Executor> executor_;
  std::int64_t done_ = 0;
};

}  // namespace reckon::real
