// Plans from and to JSON.
#pragma once

#include "hw-models/machine.h"
#include "planner/model.h"
#include "planner/plan_fields.h"

namespace reckon::plan {

// Fills in what the JSON may leave out: dp from the cluster's GPUs, a balanced layout. `v`: where
// the plan was read, for errors.
// Errors: InputError if tp pp cp dp is not the cluster, if experts don't divide a stage's ranks, or
// if a layout drops or repeats layers.
void complete_plan(const hw::Value& v, Plan& plan, const ModelShape& model,
                   const hw::Cluster& cluster);

// A plan file. Errors: InputError.
Plan plan_from_json(const hw::Document& document, const ModelShape& model,
                    const hw::Cluster& cluster);

hw::ordered_json plan_to_json(const Plan& plan);

}  // namespace reckon::plan
