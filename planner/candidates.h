// The space of a search: every combination of what a scenario allows, and which of them are legal.
//
// Where the scenario lists no values, these are tried:
//   tp          powers of two inside the NVLink domain
//   cp          powers of two that leave at least 2,048 tokens of the sequence to a rank
//   pp          divisors of the number of GPUs, at most one stage per layer
//   dp          what is left: plans use the whole cluster
//   ep, etp     divisors of the number of experts; powers of two inside the NVLink domain
//   micro-batch powers of two while one layer of it fits in memory
//   schedule    all of them, interleaved with 2, 3 and 4 chunks per stage
//   precision   bf16 and every fp8 recipe
//   recompute   none; cheap modules; those and the MLPs or mixtures; full layers
//   ZeRO        0 and 1; 2 where a step is one micro-batch; 3 without a pipeline
//   layout      even; with lighter ends; that of the scenario's own plan
// and every overlap that the stack can do is switched on. What these lists leave out is not
// searched; dimensions() and not_searched() say both to the reader of an answer. With a target
// framework, only what it can say and accepts; the lists are then its own (launch/frameworks.h).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "planner/predict.h"
#include "planner/scenario.h"

namespace reckon::plan {

// One combination. Small: a search holds hundreds of thousands.
struct Candidate {
  std::int64_t id = 0;  // its place in the enumeration; breaks ties
  std::uint16_t tp = 1, pp = 1, vpp = 1, cp = 1, ep = 1, etp = 1, micro_batch = 1;
  ScheduleKind schedule = ScheduleKind::OneFOneB;
  Precision precision = Precision::Bf16;
  Zero zero = Zero::Optimizer;
  Overlap::Expert expert = Overlap::Expert::None;
  std::uint8_t recompute = 0, layout = 0;  // index into the lists of Candidates
  bool operator==(const Candidate&) const = default;
};

using Tally = std::map<std::string, std::int64_t>;

// One loop of the space: its name and the values it takes.
struct Dimension {
  const char* name;
  std::vector<std::string> values;
};

class Candidates {
 public:
  // Keeps references to both.
  Candidates(const Scenario& scenario, const StepShape& step);

  std::int64_t combinations() const { return combinations_; }

  // The legal ones, in order of their ids. The others are added to `rejected`, by reason;
  // combinations() == size of the result + what was added.
  std::vector<Candidate> legal(Tally& rejected) const;

  Plan plan(const Candidate& choice) const;

  // No plan of the space with these degrees and this micro-batch needs less memory.
  Bytes least_memory(Plan plan) const;

  std::vector<Dimension> dimensions() const;
  // What no candidate does although it may be legal, a sentence each.
  std::vector<std::string> not_searched() const;

  // Choices with the same key run the same layers: equal ops and sizes in each pass.
  using LayerKey = std::array<std::uint16_t, 7>;
  static LayerKey layer_key(const Candidate& choice) {
    return {choice.tp,       choice.cp,          choice.ep,
            choice.etp,      choice.micro_batch, static_cast<std::uint16_t>(choice.precision),
            choice.recompute};
  }

 private:
  struct ScheduleChoice {
    ScheduleKind kind;
    int vpp;
  };
  enum LayoutChoice : std::uint8_t { kEven, kLightEnds, kAsGiven, kLayouts };
  using Layouts = std::array<std::vector<ChunkLayout>, kLayouts>;
  struct Walk;

  // The same without layout, which is the part that costs an allocation.
  void set(Plan& plan, const Candidate& choice) const;
  bool fits_any(const Plan& plan) const;

  const Scenario& scenario_;
  StepShape step_;
  std::vector<int> tp_, cp_, pp_, ep_, etp_, micro_batch_;
  std::vector<ScheduleChoice> schedule_;
  std::vector<Precision> precision_;
  std::vector<Recompute> recompute_;
  std::vector<Zero> zero_;
  bool own_zero_ = true;  // zero_ is the list above, not the scenario's or the target's
  std::vector<Overlap::Expert> expert_;
  std::vector<std::uint8_t> layout_;
  std::optional<launch::Target> target_;
  std::map<int, Layouts> layouts_of_;  // by number of chunks, for all that occur
  std::int64_t combinations_ = 0;
};

}  // namespace reckon::plan
