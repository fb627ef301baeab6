// A lower bound of a plan's step, far cheaper than its simulation.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/chunk_block.h"
#include "planner/groups.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "planner/predict.h"
#include "planner/schedule.h"

namespace reckon::plan {

// Keeps what plans share: the passes of single layers, the shape of schedules. One thread.
class StepBound {
 public:
  StepBound(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack);

  // At most Predictor(...).predict(plan, step).step. REQUIRES: !why_illegal(...).
  Seconds of(const Plan& plan, const StepShape& step);

 private:
  // Seconds of one pass of one segment of a chunk (a layer, the embedding, the head, an MTP
  // module), at least.
  struct Pass {
    double path = 0;         // until its last compute op ends, every op alone on the device
    double hidden_path = 0;  // the same, were expert exchanges free
    double expert = 0;       // expert exchange busy
    double host = 0;         // launches
    Pass& operator+=(const Pass& o) {
      path += o.path, hidden_path += o.hidden_path, expert += o.expert, host += o.host;
      return *this;
    }
  };
  enum { kF, kB, kW, kBW, kPhases };
  using Segment = std::array<Pass, kPhases>;
  struct Segments {
    std::vector<Segment> layers;  // by kind of layer
    Segment embedding, head, mtp;
  };

  // What runs how often: a distinct pass of one chunk, or a pair of two.
  struct Run {
    sim::Phase phase;
    std::uint16_t chunk, chunk2;
    auto operator<=>(const Run&) const = default;
  };
  struct Count {
    std::uint32_t run = 0;  // index into Profile::runs
    std::uint32_t times = 0;
  };
  // Chains of work that no execution of a schedule can shorten.
  struct Profile {
    std::vector<Run> runs;
    std::vector<std::vector<Count>> chains;
  };

  const Segments& segments(const Plan& plan, int seq);
  const Profile& profile(const Plan& plan, int micro_batches);
  Segment segment(const Plan& plan, const Groups& groups, int seq, const ChunkLayout& chunk);

  const ModelShape model_;
  const hw::Cluster cluster_;
  const hw::Stack stack_;
  const Params params_;
  std::vector<int> kind_of_layer_;
  std::vector<int> first_of_kind_;  // a layer of each kind
  Footprints footprints_;
  std::map<std::vector<int>, Segments> segments_;
  std::map<std::array<int, 5>, Profile> profiles_;
};

}  // namespace reckon::plan
