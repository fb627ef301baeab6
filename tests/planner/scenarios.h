// Where the shipped scenarios are.
#pragma once

#include <string>

namespace reckon::test {

inline const std::string kScenarios = RECKON_SOURCE_DIR "/scenarios/";

}  // namespace reckon::test
