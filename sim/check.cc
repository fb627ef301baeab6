#include "sim/check.h"

#include <fmt/core.h>

#include <cstdlib>

namespace reckon {

void check_failed(const char* claim, const char* file, int line) {
  fmt::print(stderr, "{}:{}: broken invariant: {}\n", file, line, claim);
  std::abort();
}

}  // namespace reckon
