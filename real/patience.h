// How long a waiting thread looks again before it sleeps: spinning is quickest while cores are
// free, and takes time from those it waits for where they are not.
#pragma once

#include <sched.h>

#include <chrono>

namespace reckon::real {

// One wait.
class Patience {
 public:
  // Gives way to other threads, then says whether to look again (true) or to sleep.
  bool look_again() {
    ::sched_yield();
    const Clock::time_point now = Clock::now();
    const bool others_ran = now - before_ > kOthersRan;
    before_ = now;
    return !others_ran && now - start_ < kLook;
  }

 private:
  using Clock = std::chrono::steady_clock;
  // About what going to sleep and being woken costs, so that waiting costs at most twice what the
  // better choice would have (Karlin et al. 1991, "Empirical studies of competitive spinning").
  static constexpr std::chrono::microseconds kLook{50};
  // A yield that returns later than this let another thread run: cores are short.
  static constexpr std::chrono::microseconds kOthersRan{2};

  Clock::time_point start_ = Clock::now(), before_ = start_;
};

}  // namespace reckon::real
