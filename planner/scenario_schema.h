// The published JSON Schema of a scenario, scenarios/scenario.schema.json, for editors. A test
// regenerates it and compares.
#pragma once

#include "hw-models/json_fields.h"

namespace reckon::plan {

hw::ordered_json scenario_schema();

}  // namespace reckon::plan
