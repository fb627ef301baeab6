// A broken invariant is our bug: say which claim failed and abort. On in every build.
#pragma once

#include <source_location>

namespace reckon {

[[noreturn]] void check_failed(const char* claim, std::source_location where);

inline void check(bool holds, const char* claim,
                  std::source_location where = std::source_location::current()) {
  if (!holds) [[unlikely]]
    check_failed(claim, where);
}

}  // namespace reckon
