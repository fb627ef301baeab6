#include "planner/interrupt.h"

#include <csignal>

namespace reckon::plan {
namespace {

// A signal handler can reach nothing but a global; lock-free atomics are safe in it.
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

const std::atomic<bool>& catch_interrupt() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  ::sigaction(SIGINT, &action, nullptr);
  return interrupted;
}

}  // namespace reckon::plan
