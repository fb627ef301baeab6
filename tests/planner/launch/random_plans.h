// Legal plans drawn at random over the catalogue's models and clusters, the same for a seed on
// every machine.
#pragma once

#include <optional>
#include <random>

#include "planner/launch/job.h"

namespace reckon::test {

class RandomPlans {
 public:
  explicit RandomPlans(std::uint64_t seed) : random_(seed) {}

  // A job whose plan reckon itself finds legal; canonical.
  plan::launch::Job next();

 private:
  template <class T>
  T any_of(std::initializer_list<T> list) {
    return *(list.begin() + static_cast<std::ptrdiff_t>(random_() % list.size()));
  }
  bool coin(unsigned one_in = 2) { return random_() % one_in == 0; }
  std::optional<plan::launch::Job> draw();

  std::mt19937_64 random_;
};

}  // namespace reckon::test
