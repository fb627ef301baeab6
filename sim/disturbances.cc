#include "sim/disturbances.h"

#include <algorithm>
#include <boost/math/distributions/gamma.hpp>
#include <boost/math/distributions/normal.hpp>
#include <cmath>
#include <numeric>

#include "sim/check.h"

namespace reckon::sim {

namespace {

constexpr std::size_t kTable = 1024;  // equally likely values that stand for a distribution
constexpr double kLeastFactor = 0.1, kMostDeviations = 4;

// Sebastiano Vigna, splitmix64.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

enum Domain : std::uint64_t { kDevice = 1, kSlot, kLoad };

std::uint64_t key_of(std::uint64_t seed, Domain domain, std::uint64_t a, std::uint64_t b) {
  return mix(mix(mix(mix(seed) ^ domain) ^ a) ^ b);
}

std::uint64_t packed(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint64_t>(a) << 32 | b;
}

double pick(const std::vector<double>& table, std::uint64_t key) {
  return table[(key >> 40) % table.size()];
}

std::vector<double> table_of(const Jitter& j) {
  if (!j.any()) return {};
  std::vector<double> t(kTable);
  const boost::math::normal normal;
  for (std::size_t i = 0; i < kTable; ++i) {
    const double p = (static_cast<double>(i) + 0.5) / kTable;
    if (!j.quantiles.empty()) {
      const double at = p * static_cast<double>(j.quantiles.size() - 1);
      const auto low = static_cast<std::size_t>(at);
      const std::size_t high = std::min(low + 1, j.quantiles.size() - 1);
      t[i] = std::lerp(j.quantiles[low], j.quantiles[high], at - static_cast<double>(low));
    } else {
      const double z =
          std::clamp(boost::math::quantile(normal, p), -kMostDeviations, kMostDeviations);
      t[i] = std::max(kLeastFactor, 1 + j.spread * z);
    }
  }
  return t;
}

}  // namespace

Draws::Draws(const Disturbances& d)
    : load_(d.load), seed_(d.seed), device_(table_of(d.device)), slot_(table_of(d.slot)) {
  check(load_.reference > 0, "the busiest rank has work");
  if (load_.kind == Load::Kind::Dirichlet) {
    check(load_.spread > 0, "a distribution has a spread");
    // A gamma distribution of shape k has the relative standard deviation 1 / sqrt(k).
    const boost::math::gamma_distribution<> gamma(1 / (load_.spread * load_.spread));
    for (std::size_t i = 0; i < kTable; ++i)
      gamma_.push_back(boost::math::quantile(gamma, (static_cast<double>(i) + 0.5) / kTable));
  }
}

double Draws::device(RankId rank) const {
  return device_.empty() ? 1
                         : pick(device_, key_of(seed_, kDevice, packed(rank.role, rank.member), 0));
}

double Draws::slot(RankId rank, std::uint32_t slot) const {
  return slot_.empty() ? 1
                       : pick(slot_, key_of(seed_, kSlot, packed(rank.role, rank.member), slot));
}

void Draws::load(const Key& key, std::uint32_t size, double* parts) const {
  const std::uint64_t drawn =
      key_of(seed_, kLoad, packed(key.group, key.chunk),
             packed(key.part, load_.per_micro_batch ? key.micro_batch : ~0u));
  switch (load_.kind) {
    case Load::Kind::Even: std::fill(parts, parts + size, load_.reference); return;
    case Load::Kind::Given: {
      const bool known = key.chunk < load_.given.size() && key.part < load_.given[key.chunk].size();
      const std::vector<double> none;
      const auto& given = known ? load_.given[key.chunk][key.part] : none;
      for (std::uint32_t i = 0; i < size; ++i) parts[i] = i < given.size() ? given[i] : 1;
      return;
    }
    case Load::Kind::Dirichlet:
      for (std::uint32_t i = 0; i < size; ++i) parts[i] = pick(gamma_, mix(drawn + i));
      break;
    case Load::Kind::Zipf: {
      // A random order of all items by sorting random keys; the j-th gets 1 / j^exponent.
      const std::uint32_t items = size * static_cast<std::uint32_t>(std::max(1, load_.items));
      std::vector<std::pair<std::uint64_t, std::uint32_t>> order(items);
      for (std::uint32_t i = 0; i < items; ++i) order[i] = {mix(drawn + i), i};
      std::sort(order.begin(), order.end());
      std::fill(parts, parts + size, 0);
      for (std::uint32_t j = 0; j < items; ++j)
        parts[order[j].second % size] += std::pow(j + 1, -load_.exponent);
      break;
    }
  }
  const double mean = std::accumulate(parts, parts + size, 0.0) / size;
  for (std::uint32_t i = 0; i < size; ++i) parts[i] /= mean;
}

}  // namespace reckon::sim
