// `reckon schema`: the JSON Schema of scenario files, for editors.
#include <fmt/format.h>

#include "planner/cli.h"
#include "planner/scenario_schema.h"

namespace reckon::plan {

int schema_command() {
  fmt::print("{}\n", scenario_schema().dump(1));
  return kDone;
}

}  // namespace reckon::plan
