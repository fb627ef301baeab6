// A broken invariant is our bug: say which claim failed and abort. On in every build.
#pragma once

namespace reckon {

// `file`, `line`: of the caller (std::source_location is more than clang 14 can do).
[[noreturn]] void check_failed(const char* claim, const char* file = __builtin_FILE(),
                               int line = __builtin_LINE());

inline void check(bool holds, const char* claim, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (!holds) [[unlikely]]
    check_failed(claim, file, line);
}

}  // namespace reckon
