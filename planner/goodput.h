// How long a campaign takes when things fail: many random runs of it, each a list of failures.
//
// While the job runs, failures come as a Poisson process, on all GPUs of the cluster. A failure
// loses the work since the last complete checkpoint, then the job waits for detection, for a host
// in place of a lost one (a spare, or the first to be repaired), for the restart and for the
// checkpoint. Failures on the way start that again.
//
// Not modelled: failures that come together or run in families, slow-downs short of failure, work
// on fewer hosts while one is missing, planned stops.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "planner/failure_spec.h"
#include "sim/units.h"

namespace reckon::plan {

struct CampaignRun {
  int gpus = 0;
  Seconds training;  // that the campaign takes if nothing fails
  Bytes checkpoint;
  std::uint64_t seed = 1;
  int runs = 400;
};

struct Goodput {
  Seconds between_failures;                    // mean, of the whole cluster
  Seconds interval, stall, load;               // of checkpoints
  double failures = 0;                         // mean over the runs, as all below
  Seconds rework, down, checkpoints, waiting;  // lost work; detection, restarts and loads; stalls;
                                               // for hosts. They add up to what is over training.
  Seconds p10, p50, p90, budgeted;  // of the campaign's length; `budgeted`: the spec's percentile
  int percentile = 90, spare_hosts = 0, runs = 0;        // as asked
  double effective = 0;                                  // training over the mean length
  std::vector<std::pair<std::string, double>> by_class;  // mean failures
};

// The interval between checkpoints that loses least when stalls of `stall` are short beside the
// time between failures: sqrt(2 stall mtbf) (Young, CACM 17(9), 1974); at least the stall.
Seconds best_interval(Seconds stall, Seconds between_failures);

Goodput goodput(const FailureSpec& spec, const CampaignRun& campaign);

nlohmann::ordered_json to_json(const Goodput& g);
std::string to_text(const Goodput& g);

}  // namespace reckon::plan
