// Where the time of a step goes, and so what binds it.
#pragma once

#include <string>

#include "planner/predict.h"

namespace reckon::plan {

// Shares of the step, mean over ranks; they add up to 1.
struct StepUse {
  double compute = 0;  // a compute stream is at work
  double exposed = 0;  // inside a pass, both compute streams wait: for token exchanges, tensor- or
                       // context-parallel collectives, or the host's launches
  double bubble = 0;
  double gradients = 0, optimizer = 0, host = 0;  // as in Phases
};

StepUse step_use(const Predictor::Run& run, Predictor& predictor);

// Largest share after compute, in words, e.g. "token exchanges and collectives that no compute
// hides".
std::string largest_loss(const StepUse& use);

}  // namespace reckon::plan
