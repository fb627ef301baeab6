// What SimGrid itself reads from a platform file: the oracle of hw-models/platform.h.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace reckon::reference {

// Names of the links from each host to each other; empty where SimGrid is not installed.
using PlatformRoutes = std::map<std::pair<std::string, std::string>, std::vector<std::string>>;
PlatformRoutes platform_routes(const std::string& path);

}  // namespace reckon::reference
