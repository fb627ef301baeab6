// Independent pieces of work on a few threads.
#pragma once

#include <cstddef>
#include <functional>

namespace reckon::plan {

// Calls work(0) ... work(n - 1), each once, on `threads` threads; the first exception by index is
// rethrown after all have ended. What the calls write must not overlap.
void for_each_index(std::size_t n, int threads, const std::function<void(std::size_t)>& work);

}  // namespace reckon::plan
