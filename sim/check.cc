#include "sim/check.h"

#include <fmt/core.h>

#include <cstdlib>

namespace reckon {

void check_failed(const char* claim, std::source_location where) {
  fmt::print(stderr, "{}:{}: broken invariant: {}\n", where.file_name(), where.line(), claim);
  std::abort();
}

}  // namespace reckon
