// The page's own files and the charting library as compiled into the program
// (planner/CMakeLists.txt says from where). Without the library its list is empty.
#pragma once

#include "hw-models/embedded.h"

namespace reckon::plan::page {

const std::vector<hw::EmbeddedFile>& embedded_files();
const std::vector<hw::EmbeddedFile>& library_files();

}  // namespace reckon::plan::page
