// What the figures of a report show of one simulated step, as JSON for the page's script. Times of
// the calendar are integers in units of `tick_s`.
#pragma once

#include <nlohmann/json.hpp>

#include "planner/predict.h"
#include "planner/scenario.h"

namespace reckon::plan {

// One simulated step and what it was asked of.
struct SimulatedStep {
  const Scenario& scenario;
  const Plan& plan;
  StepShape step;
  const Predictor::Run& run;
  Predictor& predictor;
};

// {tick_s, end, labels, blocks [{ops [[label, stream, phase, recompute, start, end]...]}], stages
// [{name, ranks, slots [[block, phase, start, end, micro_batch, micro_batch2]...], gradients
// [start, end], tail [block, start, end]}]}. Two levels, as the Program has: a slot's ops are those
// of its block, stretched where the slot is longer. Where the calendar has more than `kMostSlots`
// slots it shows some stages at equal steps, with the number of all in "stages_in_all".
nlohmann::ordered_json timeline_figure(const SimulatedStep& s);

// Per stage: {standing GiB by cause, reserve, points [[activations after, highest during] MiB...]},
// one point per slot of the timeline.
nlohmann::ordered_json memory_figure(const SimulatedStep& s);

// {memory_rate, peaks {dtype: flop/s}, ops [{label, phase, recompute, kind, dtype, flops, bytes,
// seconds, alone_s, calls, calibrated}]}: compute ops of one step, mean over ranks, longest first.
// `bytes`: operands and results once each, what a kernel at least moves; `seconds`: as they ran,
// beside communication; `alone_s`: with the device to themselves.
nlohmann::ordered_json roofline_figure(const SimulatedStep& s);

}  // namespace reckon::plan
