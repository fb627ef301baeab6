// What goes wrong on single ranks of a step, as data: devices that are slower than others, links
// that lost bandwidth, work that is spread unevenly. Every draw is a function of the seed and of
// what it is drawn for, so the order of simulation doesn't matter.
//
// Not modelled: dead devices (they end the step); devices that change their speed within a step.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/sim_time.h"

namespace reckon::sim {

// A distribution of factors on times. Of quantiles, evenly spaced from the least to the largest,
// each draw takes one point of the broken line through them. Otherwise a normal distribution
// around 1 with standard deviation `spread`, cut at 4 deviations and never below 0.1.
struct Jitter {
  double spread = 0;
  std::vector<double> quantiles;
  bool any() const { return spread > 0 || !quantiles.empty(); }
};

// How grouped work (GroupedMatMul, TokenExchange) is shared among the ranks of a group: each rank's
// part, over the mean.
struct Load {
  enum class Kind {
    Even,       // as the program says
    Dirichlet,  // parts are gamma-distributed with standard deviation `spread`, scaled to mean 1
    Zipf,       // `items` things a rank, the j-th most popular of them all gets 1 / j^exponent; who
                // is popular is drawn
    Given       // given[chunk][part][rank of the group]
  } kind = Kind::Even;
  double spread = 0, exponent = 0;
  int items = 1;
  std::vector<std::vector<std::vector<double>>> given;
  bool per_micro_batch = true;  // drawn anew for each micro-batch; false: once for each part
  double reference = 1;         // part of the busiest rank for which the program's work stands
  bool any() const { return kind != Kind::Even; }
};

struct RankId {
  std::uint32_t role = 0, member = 0;
  auto operator<=>(const RankId&) const = default;
};

struct SlowRank {
  RankId rank;
  double speed = 1;  // relative to the others
};

// A NIC that is slower for a while, or gone (speed 0) and back again.
struct Flap {
  RankId rank;
  SimTime start, duration;
  double speed = 0;  // meanwhile, relative to the others
};

struct Disturbances {
  Jitter device;  // of a rank's compute, once for the whole step
  Jitter slot;    // of a rank's compute, drawn for each slot
  Load load;
  std::vector<SlowRank> devices;  // compute
  std::vector<SlowRank> links;    // their NICs
  std::vector<Flap> flaps;        // those of one rank don't overlap
  std::uint64_t seed = 1;
};

// Draws from the distributions of one Disturbances. Tables are made once.
class Draws {
 public:
  explicit Draws(const Disturbances& d);

  double device(RankId rank) const;                    // factor on compute times
  double slot(RankId rank, std::uint32_t slot) const;  // likewise

  // Parts of the `size` ranks of group `group` for one part of a chunk's work on one micro-batch.
  struct Key {
    std::uint32_t group = 0;  // over all roles
    std::uint32_t chunk = 0, part = 0, micro_batch = 0;
  };
  void load(const Key& key, std::uint32_t size, double* parts) const;

 private:
  Load load_;
  std::uint64_t seed_;
  std::vector<double> device_, slot_, gamma_;  // equally likely values
};

}  // namespace reckon::sim
