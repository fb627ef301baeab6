// Each collective beside the loop that defines it, for random sizes and values: what every
// transport has to reproduce bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "real/group.h"

namespace reckon::real {

// What member `rank` puts in: sums of such values depend on their order.
template <class T>
std::vector<T> contribution(int rank, unsigned seed, std::size_t n) {
  std::uint64_t state = seed * 1000 + static_cast<unsigned>(rank);
  std::vector<T> out(n);
  for (T& x : out) {
    state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
    x = static_cast<T>(std::ldexp(static_cast<double>(state >> 11) * 0x1p-53 - 0.5,
                                  static_cast<int>(state >> 59)));
  }
  return out;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Element by element ((x0 + x1) + x2) + ... over the members' vectors.
template <class T>
std::vector<T> sum_in_order(const std::vector<std::vector<T>>& x) {
  std::vector<T> total = x[0];
  for (std::size_t m = 1; m < x.size(); ++m)
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += x[m][i];
  return total;
}

// Runs every collective once on `group`, whose members are these ranks, with sizes that depend on
// the seed. The name of one that gave a wrong result on this rank.
inline std::optional<std::string> collective_error(Group& group, const std::vector<int>& members,
                                                   unsigned seed) {
  const std::size_t size = members.size();
  const auto me = static_cast<std::size_t>(group.index());
  std::mt19937 random(seed);  // the same on every member
  const auto some = [&] {     // empty, small, and large enough for every path
    const unsigned kind = random() % 8;
    return kind == 0  ? 0u
           : kind < 5 ? random() % 40
           : kind < 7 ? random() % 3000
                      : random() % 15000;
  };
  const auto all = [&]<class T>(T, std::size_t n) {
    std::vector<std::vector<T>> x;
    for (int rank : members) x.push_back(contribution<T>(rank, seed, n));
    return x;
  };
  const auto part = [](const auto& x, std::size_t begin, std::size_t count) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(begin);
    return std::decay_t<decltype(x)>(first, first + static_cast<std::ptrdiff_t>(count));
  };

  {
    const auto x = all(0.0f, some());
    std::vector<float> v = x[me];
    group.all_reduce(v.data(), v.size());
    if (!same_bits(v, sum_in_order(x))) return "all_reduce of floats";
    v = x[me];
    group.all_reduce_max(v.data(), v.size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      float largest = x[0][i];
      for (const auto& other : x) largest = std::max(largest, other[i]);
      if (v[i] != largest) return "all_reduce_max";
    }
  }
  {
    const auto x = all(0.0, some());
    std::vector<double> v = x[me];
    group.all_reduce(v.data(), v.size());
    if (!same_bits(v, sum_in_order(x))) return "all_reduce of doubles";
  }
  {
    const std::size_t n = some();
    const auto x = all(0.0f, n * size);
    std::vector<float> v(n);
    group.reduce_scatter(x[me].data(), v.data(), n);
    if (!same_bits(v, part(sum_in_order(x), me * n, n))) return "reduce_scatter";
  }
  {
    const std::size_t n = some();
    const auto x = all(0.0f, n);
    std::vector<float> expected, v(n * size);
    for (const auto& one : x) expected.insert(expected.end(), one.begin(), one.end());
    group.all_gather(x[me].data(), v.data(), n);
    if (!same_bits(v, expected)) return "all_gather";
    std::fill(v.begin(), v.end(), 0.0f);
    std::copy(x[me].begin(), x[me].end(), v.begin() + static_cast<std::ptrdiff_t>(me * n));
    group.all_gather(v.data() + me * n, v.data(), n);
    if (!same_bits(v, expected)) return "all_gather in place";
  }
  {
    std::vector<std::size_t> counts, start;
    std::size_t total = 0;
    for (std::size_t m = 0; m < size; ++m) {
      start.push_back(total);
      counts.push_back(some());
      total += counts.back();
    }
    const auto x = all(0.0f, total);
    const std::vector<float> sum = sum_in_order(x);
    std::vector<float> v(counts[me]);
    group.reduce_scatter_parts(x[me].data(), v.data(), counts);
    if (!same_bits(v, part(sum, start[me], counts[me]))) return "reduce_scatter_parts";
    std::vector<float> w(total);
    group.all_gather_parts(v.data(), w.data(), counts);
    if (!same_bits(w, sum)) return "all_gather_parts";
  }
  {
    std::vector<std::vector<std::size_t>> counts(size);  // [from][to]
    for (auto& row : counts)
      for (std::size_t m = 0; m < size; ++m) row.push_back(some());
    std::vector<float> expected;
    std::vector<std::size_t> receives;
    for (std::size_t from = 0; from < size; ++from) {
      std::size_t total = 0, begin = 0;
      for (std::size_t to = 0; to < size; ++to) {
        if (to < me) begin += counts[from][to];
        total += counts[from][to];
      }
      const auto theirs =
          part(contribution<float>(members[from], seed, total), begin, counts[from][me]);
      expected.insert(expected.end(), theirs.begin(), theirs.end());
      receives.push_back(theirs.size());
    }
    std::size_t total = 0;
    for (std::size_t n : counts[me]) total += n;
    const auto mine = contribution<float>(members[me], seed, total);
    std::vector<float> v(expected.size());
    group.all_to_all(mine.data(), counts[me], v.data(), receives);
    if (!same_bits(v, expected)) return "all_to_all";
  }
  {
    const std::size_t n = random() % 5;
    std::vector<std::int32_t> in, out, expected;
    for (std::size_t to = 0; to < size; ++to)
      for (std::size_t i = 0; i < n; ++i) {
        in.push_back(static_cast<std::int32_t>(1000 * me + 10 * to + i));
        expected.push_back(static_cast<std::int32_t>(1000 * to + 10 * me + i));
      }
    group.all_to_all_counts(in, n, out);
    if (out != expected) return "all_to_all_counts";
  }
  {
    const std::size_t root = random() % size, n = some();
    std::vector<float> v = contribution<float>(members[me], seed, n);
    group.broadcast(v.data(), n, static_cast<int>(root));
    if (!same_bits(v, contribution<float>(members[root], seed, n))) return "broadcast";
  }
  group.barrier();
  return std::nullopt;
}

}  // namespace reckon::real
