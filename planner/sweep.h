// What-if questions over a range: the same scenario with some of its parts varied, priced again at
// each point.
//
// A part is named by its path in the scenario's JSON: cluster.gpus, cluster.fabric.nic,
// model.moe.top_k, campaign.0.seq, search.precision. Where the scenario gives a part by its
// catalogue name, the path changes a copy of that entry.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hw-models/strict_json.h"
#include "planner/model.h"

namespace reckon::plan {

struct Variation {
  std::string path;
  std::vector<nlohmann::json> values;
};

// "PATH=V,V,..." with values as in JSON, texts without quotes too; "A..B*F" and "A..B+D", with a
// unit behind, are ranges: "cluster.fabric.nic=25..100+25 GB/s". Errors: InputError.
Variation read_variation(const std::string& text);

struct Sweep {
  hw::Document scenario;
  std::vector<Variation> variations;
  bool one_at_a_time = false;  // each alone, the others as the scenario has them; else all together
  bool search = true;          // a plan for each point; else the scenario's own, with dp as it fits
  std::vector<std::vector<nlohmann::json>> chosen;  // these points alone; empty: all of the grid
};

// One point: a value for each variation; null: as the scenario has it.
using SweepPoint = std::vector<nlohmann::json>;
std::vector<SweepPoint> points(const Sweep& sweep);

// The scenario of a point. Errors: InputError, also for a path that leads nowhere; whether the
// result is a scenario is for scenario_from_json to say.
hw::Document scenario_at(const Sweep& sweep, const SweepPoint& point);

// The model of a point alone. Errors: InputError.
ModelShape model_at(const Sweep& sweep, const SweepPoint& point);

// What an error of a point's scenario says, without a place: the text is made, its lines say
// nothing.
std::string reason_of(const InputError& error);

// The answer at one point, as JSON: "plan", "step_s", "gpu_hours", "days", "money",
// "peak_memory_GiB", "mfu", "meets_budget"; or "reason" where there is none.
nlohmann::ordered_json answer_at(const Sweep& sweep, const SweepPoint& point);

struct SweepProgress {
  std::size_t done = 0, all = 0;
};

struct SweepOptions {
  int threads = 1;
  std::string journal;      // file that keeps answers as they come; empty: none
  int part = 0, parts = 1;  // this process takes points i with i mod parts == part
  const std::atomic<bool>* stop = nullptr;
  std::function<void(const SweepProgress&)> progress;  // called under a lock
};

// Answers by point; null where another part has not answered yet, or after a stop. Answers found in
// the journals of this sweep (all parts) are not computed again. Errors: InputError for a journal
// of another sweep.
std::vector<nlohmann::ordered_json> run(const Sweep& sweep, const SweepOptions& options);

// Deletes the journals once the result is safe elsewhere.
void remove_journals(const std::string& journal);

}  // namespace reckon::plan
