// A random order of a range that needs no table.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace reckon::real {

// splitmix64 (Steele, Lea, Flood 2014): a good mixture of all bits of x.
constexpr std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// A permutation of [0, n), drawn by `key`: a Feistel network on the smallest square power of two
// that holds the range, walked until it comes back into the range (Black and Rogaway 2002), at
// most 4 times on average.
class Permutation {
 public:
  // REQUIRES: n > 0
  Permutation(std::uint64_t n, std::uint64_t key)
      : n_(n), half_bits_((std::bit_width(n - 1) + 1) / 2) {
    for (std::size_t r = 0; r < keys_.size(); ++r) keys_[r] = mixed(key = mixed(key) + r);
  }

  // REQUIRES: i < n
  std::uint64_t operator()(std::uint64_t i) const {
    do i = network(i);
    while (i >= n_);
    return i;
  }

 private:
  std::uint64_t network(std::uint64_t x) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = x >> half_bits_, right = x & mask;
    for (const std::uint64_t key : keys_) {
      const std::uint64_t next = left ^ (mixed(right ^ key) & mask);
      left = right;
      right = next;
    }
    return left << half_bits_ | right;
  }

  std::uint64_t n_;
  int half_bits_;
  std::array<std::uint64_t, 6> keys_{};  // one a round; 4 make it look random already
};

}  // namespace reckon::real
