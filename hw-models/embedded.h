// The catalogue files as compiled into the program (hw-models/CMakeLists.txt lists them).
#pragma once

#include <string_view>
#include <vector>

namespace reckon::hw {

struct EmbeddedFile {
  std::string_view name;  // path below catalog/
  std::string_view text;
};

const std::vector<EmbeddedFile>& embedded_files();

}  // namespace reckon::hw
