// How long a sweep with a full search at each point takes. Not a test: prints, judges nothing.
//   bench-sweep SCENARIO.json [points of the 200] [threads]
// The 200 points: 20 NIC rates x 10 memory sizes of the GPU. A sample is of NIC rates spread
// evenly, with all memory sizes each: points of one machine share work.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>

#include "planner/sweep.h"

using namespace reckon;
using namespace reckon::plan;

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: bench-sweep SCENARIO.json [points] [threads]\n");
    return 2;
  }
  const std::size_t sample =
      argc > 2 ? static_cast<std::size_t>(std::max(1, std::atoi(argv[2]))) : 200;
  const int threads = argc > 3 ? std::max(1, std::atoi(argv[3])) : 2;
  Sweep sweep{.scenario = hw::read_json_file(argv[1])};
  sweep.variations = {read_variation("cluster.fabric.nic=12.5..107.5+5 GB/s"),
                      read_variation("cluster.gpu.memory=64..100+4 GB")};
  const std::vector<SweepPoint> all = points(sweep);
  const std::size_t sizes = sweep.variations[1].values.size();
  const std::size_t rates = all.size() / sizes;
  const std::size_t taken = std::clamp<std::size_t>(sample / sizes, 1, rates);
  for (std::size_t i = 0; i < taken; ++i)
    for (std::size_t k = 0; k < sizes; ++k)
      sweep.chosen.push_back(all[i * rates / taken * sizes + k]);
  const std::size_t n = sweep.chosen.size();

  const auto start = std::chrono::steady_clock::now();
  const std::clock_t cpu_start = std::clock();
  const auto answers = run(sweep, {.threads = threads});
  const double wall =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double cpu = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
  std::size_t planned = 0;
  for (const auto& a : answers) planned += a.contains("plan");
  const auto count = static_cast<double>(n);
  fmt::print(
      "{} of {} points, {} with a plan, {} threads: {:.1f} s, {:.1f} CPU-s ({:.2f} a point)\n", n,
      all.size(), planned, threads, wall, cpu, cpu / count);
  fmt::print("{} points at this rate: {:.1f} min\n", all.size(),
             wall / count * static_cast<double>(all.size()) / 60);
}
