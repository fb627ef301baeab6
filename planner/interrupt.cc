#include "planner/interrupt.h"

namespace reckon::plan {
namespace {

// A signal handler can reach nothing but a global; lock-free atomics are safe in it.
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

const std::atomic<bool>& catch_interrupt(std::initializer_list<int> signals) {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  for (const int signal : signals) ::sigaction(signal, &action, nullptr);
  return interrupted;
}

}  // namespace reckon::plan
