// How fast flows are shared, beside SimGrid where it is installed, and whether the two agree. Exit
// 1: they don't, by more than 1 %.
//   bench_fluid [ranks of the largest run]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <random>

#include "sim/simgrid_flows.h"

using namespace reckon;
using namespace reckon::sim;

namespace {

constexpr unsigned kGroup = 64;  // ranks of one all-to-all
constexpr unsigned kRadix = 64;  // ports of a switch: half down, half up
constexpr BytesPerSecond kNic = 50 * GB / s;

double cpu() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

// All-to-alls of 1 MB a message, +- `spread`, in groups of 64 ranks. One NIC a rank, in a
// non-blocking two-layer fat-tree; groups are strided over it, so nearly every flow climbs to a
// spine, and which one is a hash: uplinks collide. Up to 64 ranks: one switch.
HostFlows all_to_alls(unsigned ranks, double spread) {
  HostFlows b{.hosts = ranks};
  const unsigned leaves = (ranks + kRadix / 2 - 1) / (kRadix / 2), spines = kRadix / 2;
  // Up and down of each rank, then up and down of each (leaf, spine).
  b.link_rates.assign(2 * ranks + (ranks > kRadix ? 2 * leaves * spines : 0), kNic);
  std::mt19937_64 random(7);
  const unsigned groups = std::max(1u, ranks / kGroup);
  for (unsigned from = 0; from < ranks; ++from)
    for (unsigned to = from % groups; to < ranks; to += groups) {
      if (from == to) continue;
      const unsigned leaf = from / (kRadix / 2), leaf_to = to / (kRadix / 2);
      HostFlows::Route r{.from = from, .to = to, .links = {2 * from}};
      if (ranks > kRadix && leaf != leaf_to) {
        const auto spine = static_cast<unsigned>(random() % spines);
        r.links.push_back(2 * ranks + 2 * (leaf * spines + spine));
        r.links.push_back(2 * ranks + 2 * (leaf_to * spines + spine) + 1);
      }
      r.links.push_back(2 * to + 1);
      const double u = std::uniform_real_distribution<double>(-1, 1)(random);
      b.flows.push_back({.route = static_cast<RouteId>(b.routes.size()),
                         .bytes = Bytes(std::round(1e6 * (1 + spread * u)))});
      b.routes.push_back(std::move(r));
    }
  return b;
}

struct Ours {
  std::vector<SimTime> ends;
  double cpu_seconds;
};

Ours ours(const HostFlows& b, double tolerance) {
  std::vector<std::vector<LinkId>> routes;
  for (const auto& r : b.routes) routes.push_back(r.links);
  const double start = cpu();
  const auto ends = flow_ends(b.link_rates, routes, b.flows, tolerance);
  Ours o{.cpu_seconds = cpu() - start};
  for (const auto& end : ends) o.ends.push_back(end.value());
  return o;
}

SimTime last(const std::vector<SimTime>& ends) {
  return *std::max_element(ends.begin(), ends.end());
}

void print(const char* who, std::size_t flows, double cpu_seconds, SimTime end) {
  fmt::print("  {:<8} {:>9.3f} CPU-s {:>11.0f} completions/CPU-s   all ended at {:.6f} ms\n", who,
             cpu_seconds, static_cast<double>(flows) / std::max(cpu_seconds, 1e-6),
             seconds(end) / ms);
}

}  // namespace

int main(int argc, char** argv) {
  const int most = argc > 1 ? std::atoi(argv[1]) : 2048;
  bool agree = true;
  for (double spread : {0.0, 0.2})
    for (unsigned ranks : {64u, 256u, 2048u}) {
      if (ranks > static_cast<unsigned>(most)) continue;
      const HostFlows batch = all_to_alls(ranks, spread);
      fmt::print("{} ranks, all-to-all in groups of {}, {} flows, sizes +-{:.0f} %\n", ranks,
                 kGroup, batch.flows.size(), 100 * spread);
      const Ours o = ours(batch, Fluid::kExact);
      print("exact", batch.flows.size(), o.cpu_seconds, last(o.ends));
      const Ours coarse = ours(batch, 1e-3);
      print("to 0.1 %", batch.flows.size(), coarse.cpu_seconds, last(coarse.ends));
#ifdef RECKON_SIMGRID
      if (ranks > 256) continue;
      const SimGridRun g = simgrid_flow_ends(batch);
      if (g.ends.empty()) return 1;
      print("SimGrid", batch.flows.size(), g.cpu_seconds, last(g.ends));
      for (const Ours* mine : {&o, &coarse}) {
        double worst = 0;
        for (std::size_t f = 0; f < batch.flows.size(); ++f)
          worst = std::max(worst, std::abs(seconds(mine->ends[f]) / seconds(g.ends[f]) - 1));
        fmt::print(
            "  {:<8} {:.0f} times as fast as SimGrid; a flow's end differs by at most {:.2g} %, "
            "the last by {:.2g} %\n",
            mine == &o ? "exact" : "to 0.1 %", g.cpu_seconds / std::max(mine->cpu_seconds, 1e-6),
            100 * worst, 100 * std::abs(seconds(last(mine->ends)) / seconds(last(g.ends)) - 1));
        agree = agree && worst <= 0.01;
      }
#endif
    }
#ifndef RECKON_SIMGRID
  fmt::print("SimGrid is not installed (libsimgrid-dev): nothing to compare with\n");
#endif
  return agree ? 0 : 1;
}
