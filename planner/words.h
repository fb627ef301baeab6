// Names as people write them.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>

namespace reckon::plan {

inline std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

inline bool says(const std::string& text, const char* word) {
  return text.find(word) != std::string::npos;
}

}  // namespace reckon::plan
