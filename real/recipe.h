// How a model is trained: see planner/training.h.
#pragma once

#include "planner/training.h"

namespace reckon::real {

using plan::Recipe;

// Learning rate of step `step`, counted from 1.
double learning_rate(const Recipe& recipe, std::int64_t step);

}  // namespace reckon::real
