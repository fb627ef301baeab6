// What `sweep` and `codesign` share: many points, computed by several threads and processes, kept
// in a journal until the result is written.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "planner/cli.h"
#include "planner/sweep.h"

namespace reckon::plan {

// `output` ends in .csv or .json and can be written, or is empty. Errors: InputError.
void check_output_name(const std::string& output);
// Before long work: whether these can be made, and written. Empty: not asked for.
void check_pictures(const std::string& chart, const std::string& report);

// A path that no point can use is a mistake, not an answer. Errors: InputError, the first point's.
void require_some_scenario(const Sweep& sweep);

struct PointsRun {
  std::vector<nlohmann::ordered_json> answers;  // null where there is none yet
  std::size_t done = 0, with_plan = 0;
  bool interrupted = false;
  bool others_go_on = false;  // other processes have the points that lack
  bool whole() const { return done == answers.size(); }
};

// `part`: "K/N"; empty: as mpirun or Slurm say. Says on stderr how far it is, and what is left
// where it does not end.
PointsRun run_points(const Sweep& sweep, const std::string& output, const std::string& part,
                     const CommonOptions& common);

// Once the result is written.
void forget_points(const std::string& output);

}  // namespace reckon::plan
