// What makes a plan illegal, for one plan or for very many of them.
#pragma once

#include <string>

#include "planner/predict.h"

namespace reckon::plan {

// The first reason against a plan, or nullptr. A fixed text; `detail`, when given, receives the
// figures of this case. Without it nothing is allocated: the search asks this of every candidate.
const char* first_reason_against(const ModelShape& model, const hw::Cluster& cluster,
                                 const hw::Stack& stack, const Plan& plan, const StepShape& step,
                                 std::string* detail = nullptr);

}  // namespace reckon::plan
