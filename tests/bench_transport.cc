// How fast ranks exchange messages: latency of small ones, bandwidth of large ones. Not a test:
// prints, judges nothing.
//   bench_transport [ranks]          ranks are threads; 2 by default
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <numeric>

#include "real/group.h"

using namespace reckon::real;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Wall and CPU time of one call of `body`, which all ranks make; printed by rank 0. `bytes`: what
// one rank sends in it.
template <class Body>
void measure(Group& world, const std::string& what, double bytes, Body body) {
  const int repeats = bytes < 1e5 ? 2000 : bytes < 2e6 ? 300 : 30;
  for (int i = 0; i < repeats / 10; ++i) body();
  world.barrier();
  const double wall = now();
  const std::clock_t cpu = std::clock();
  for (int i = 0; i < repeats; ++i) body();
  world.barrier();
  if (world.index() != 0) return;
  const double seconds = (now() - wall) / repeats;
  fmt::print("{:<34} {:>10.2f} us {:>10.2f} CPU-us {:>8.2f} GB/s a rank\n", what, seconds * 1e6,
             static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC / repeats * 1e6,
             bytes / seconds / 1e9);
}

void bench(Transport& t) {
  std::vector<int> all(static_cast<std::size_t>(t.size()));
  std::iota(all.begin(), all.end(), 0);
  const auto world = make_group(t, all, 0);
  const std::size_t ranks = all.size();
  std::vector<float> a(ranks << 20, 1), b(ranks << 20, 2);  // 4 MiB for each rank
  for (const std::size_t bytes : {std::size_t{8}, std::size_t{4} << 10, std::size_t{64} << 10,
                                  std::size_t{1} << 20, std::size_t{4} << 20}) {
    const std::string size =
        bytes < 1 << 20 ? fmt::format("{} B", bytes) : fmt::format("{} MiB", bytes >> 20);
    const double d = static_cast<double>(bytes);
    const std::size_t n = bytes / sizeof(float);
    measure(*world, "ping-pong, there and back, " + size, d, [&] {
      if (t.rank() == 0) {
        t.send(1, 1, a.data(), bytes)->wait();
        t.receive(1, 1, b.data(), bytes)->wait();
      } else if (t.rank() == 1) {
        t.receive(0, 1, b.data(), bytes)->wait();
        t.send(0, 1, a.data(), bytes)->wait();
      }
    });
    measure(*world, "all_reduce, " + size,
            2 * d * static_cast<double>(ranks - 1) / static_cast<double>(ranks),
            [&] { world->all_reduce(a.data(), n); });
    measure(*world, "all_gather, " + size + " from each", d * static_cast<double>(ranks - 1),
            [&] { world->all_gather(a.data(), b.data(), n); });
    const std::vector<std::size_t> counts(ranks, n);
    measure(*world, "all_to_all, " + size + " to each", d * static_cast<double>(ranks - 1),
            [&] { world->all_to_all(a.data(), counts, b.data(), counts); });
  }
  measure(*world, "barrier", 0, [&] { world->barrier(); });
}

}  // namespace

int main(int argc, char** argv) {
  run_local(argc > 1 ? std::atoi(argv[1]) : 2, bench);
}
