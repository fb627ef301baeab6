// The model catalogue as compiled into the program (planner/CMakeLists.txt lists the files).
#pragma once

#include "hw-models/embedded.h"

namespace reckon::plan {

const std::vector<hw::EmbeddedFile>& embedded_files();

}  // namespace reckon::plan
