// Scenarios from and to JSON. The format is published as scenarios/scenario.schema.json.
#pragma once

#include <string>

#include "hw-models/json_fields.h"
#include "planner/scenario.h"

namespace reckon::plan {

// Errors: InputError with file, line, column and JSON pointer.
Scenario scenario_from_json(const hw::Document& document);
Scenario read_scenario(const std::string& path);

// Every part in full.
hw::ordered_json scenario_to_json(const Scenario& scenario);

}  // namespace reckon::plan
