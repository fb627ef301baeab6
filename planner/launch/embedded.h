// The option tables of the frameworks, compiled into the program.
#pragma once

#include "hw-models/embedded.h"

namespace reckon::plan::launch {

const std::vector<hw::EmbeddedFile>& embedded_files();

// One of them by its name in launch/catalog. REQUIRES: it exists.
const hw::EmbeddedFile& embedded_file(const char* name);

}  // namespace reckon::plan::launch
