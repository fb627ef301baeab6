// What fails during a campaign and what that costs, as a scenario states it. Fields:
// failure_fields.h; what follows: goodput.h.
#pragma once

#include <string>
#include <vector>

#include "sim/units.h"

namespace reckon::plan {

struct FailureClass {
  std::string name;
  double per_gpu_day = 0;  // interruptions of the job, for each GPU that it runs on
  bool host_lost = false;  // the job needs another host; else the same hosts start again
};

struct FailureSpec {
  std::string name;
  std::vector<FailureClass> classes;
  Seconds detect;       // until the job is known to be dead
  Seconds restart;      // scheduling, start-up, communicators; loading the checkpoint comes on top
  Seconds repair;       // until a lost host is back
  int spare_hosts = 0;  // that wait, beside the cluster's own
  BytesPerSecond storage;  // of all hosts together, writing or reading a checkpoint
  double stall = 1;        // part of a checkpoint's writing that training waits for
  Seconds interval;        // between checkpoints; 0: the best
  int percentile = 90;     // of the campaign's length, that the budget has to cover
};

}  // namespace reckon::plan
