#include "planner/stragglers.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "planner/embedded.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

struct Interruptions {
  double rate = 0;                                     // of a rank, per second
  std::map<std::string, double, std::less<>> seconds;  // each, by stack
};

const Interruptions& catalogue() {
  static const Interruptions all = [] {
    const auto& files = embedded_files();
    const auto it = std::find_if(files.begin(), files.end(), [](const hw::EmbeddedFile& f) {
      return f.name == "stragglers.json";
    });
    check(it != files.end(), "the catalogue has stragglers");
    const auto j = nlohmann::json::parse(it->text);
    Interruptions out{.rate = j.at("interruptions_per_gpu_second")};
    for (const auto& [stack, seconds] : j.at("interruption_seconds").items())
      out.seconds[stack] = seconds;
    return out;
  }();
  return all;
}

}  // namespace

double largest_poisson(double mean, double n) {
  constexpr double kMany = 200;  // above, a Poisson distribution is close to a normal one
  if (mean > kMany) return mean + std::sqrt(2 * mean * std::log(n));
  // E[max of n draws X] = sum over k >= 1 of 1 - P(X < k)^n.
  double probability = std::exp(-mean), below = probability, expected = 0;
  for (int k = 1;; ++k) {
    const double term = -std::expm1(n * std::log(std::min(1.0, below)));
    expected += term;
    if (term < 1e-9 && k > mean) return expected;
    probability *= mean / k;
    below += probability;
  }
}

Seconds interruption(std::string_view stack) {
  const Interruptions& all = catalogue();
  const auto it = all.seconds.find(stack);
  return Seconds(it == all.seconds.end() ? 0 : it->second);
}

double interruptions(const Plan& p, Seconds step) {
  const double ranks = static_cast<double>(p.tp) * p.pp * p.cp;  // of one replica
  return largest_poisson(catalogue().rate * ranks * step.si, p.dp);
}

Seconds straggler_wait(std::string_view stack, const Plan& p, Seconds step) {
  const Seconds each = interruption(stack);
  return each.si > 0 ? interruptions(p, step) * each : Seconds(0);
}

}  // namespace reckon::plan
