// Copies what two pieces of a tensor have in common. Export: copy_common, and what reports it.
//
// The boxes' intersection is walked row by row, in the order of the flattened tensor. Let k be the
// first dimension such that the intersection fills both boxes in every later one. Then the elements
// with given indices in the dimensions before k lie together in both boxes: one run. From run to
// run, the place in either flattened box only grows, so the runs that touch both pieces' ranges
// [first, first + count) are neighbours and are found by bisection.
#include "real/piece_copy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace reckon::real {
namespace {

using Sizes = std::vector<std::int64_t>;

// Place in a flattened box of the element with these indices in the whole tensor.
std::int64_t place(const Piece& piece, const Sizes& index) {
  std::int64_t at = 0;
  for (std::size_t d = 0; d < index.size(); ++d)
    at = at * piece.extent[d] + (index[d] - piece.begin[d]);
  return at;
}

}  // namespace

std::string piece_error(const Piece& p) {
  if (p.begin.size() != p.shape.size() || p.extent.size() != p.shape.size())
    return fmt::format("shape, begin and extent have {}, {} and {} dimensions", p.shape.size(),
                       p.begin.size(), p.extent.size());
  std::int64_t box = 1, whole = 1;
  for (std::size_t d = 0; d < p.shape.size(); ++d) {
    // Subtracted, since sums and products may overflow.
    if (p.shape[d] < 0 || p.begin[d] < 0 || p.extent[d] < 0 || p.begin[d] > p.shape[d] ||
        p.extent[d] > p.shape[d] - p.begin[d])
      return fmt::format("the box of extent {} at {} lies outside the shape {}",
                         shape_text(p.extent), shape_text(p.begin), shape_text(p.shape));
    if (__builtin_mul_overflow(whole, p.shape[d], &whole))
      return fmt::format("the shape {} has too many elements", shape_text(p.shape));
    box *= p.extent[d];
  }
  if (p.first < 0 || p.count < 0 || p.first > box || p.count > box - p.first)
    return fmt::format("{} elements from {} on lie outside a box of {}", p.count, p.first, box);
  return {};
}

std::string shape_text(const Sizes& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string element_text(const Piece& piece, std::int64_t at) {
  Sizes index(piece.shape.size());
  for (std::size_t d = index.size(); d-- > 0; at /= piece.extent[d])
    index[d] = piece.begin[d] + at % piece.extent[d];
  return shape_text(index);
}

void Filled::fill(std::int64_t begin, std::int64_t count) {
  const std::int64_t end = begin + count;
  while (begin < end) {
    const std::int64_t bit = begin % 64, n = std::min(end - begin, 64 - bit);
    words_[static_cast<std::size_t>(begin / 64)] |= (n == 64 ? ~0ull : (1ull << n) - 1) << bit;
    begin += n;
  }
}

std::int64_t Filled::first_gap() const {
  for (std::size_t w = 0; w < words_.size(); ++w)
    if (words_[w] != ~0ull)
      return std::min(count_, static_cast<std::int64_t>(w) * 64 + std::countr_one(words_[w]));
  return count_;
}

void copy_common(const PieceValues& source, const Piece& to, float* out, Filled& filled) {
  const Piece& from = source.piece;
  const std::size_t dims = from.shape.size();
  Sizes begin(dims), extent(dims);
  for (std::size_t d = 0; d < dims; ++d) {
    begin[d] = std::max(from.begin[d], to.begin[d]);
    extent[d] = std::min(from.begin[d] + from.extent[d], to.begin[d] + to.extent[d]) - begin[d];
    if (extent[d] <= 0) return;
  }
  std::size_t outer = dims;  // dimensions that are walked; the others make a run
  std::int64_t length = 1;
  while (outer > 0) {
    const std::size_t d = --outer;
    length *= extent[d];
    if (extent[d] != from.extent[d] || extent[d] != to.extent[d]) break;
  }
  std::int64_t runs = 1;
  for (std::size_t d = 0; d < outer; ++d) runs *= extent[d];

  Sizes index = begin;
  const auto go_to = [&](std::int64_t run) {
    for (std::size_t d = outer; d-- > 0; run /= extent[d]) index[d] = begin[d] + run % extent[d];
  };
  // The first run that ends after the start of both ranges.
  std::int64_t low = 0, high = runs;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    go_to(middle);
    const bool before =
        place(from, index) + length <= from.first || place(to, index) + length <= to.first;
    if (before)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == runs) return;
  go_to(low);
  std::int64_t from_at = place(from, index) - from.first, to_at = place(to, index) - to.first;
  for (std::int64_t run = low; from_at < from.count && to_at < to.count; ++run) {
    const std::int64_t skip = std::max({std::int64_t{0}, -from_at, -to_at});
    const std::int64_t end = std::min({length, from.count - from_at, to.count - to_at});
    if (end > skip) {
      std::memcpy(out + to_at + skip, source.values + from_at + skip,
                  static_cast<std::size_t>(end - skip) * sizeof(float));
      filled.fill(to_at + skip, end - skip);
    }
    if (run + 1 == runs) break;
    // The next index, and how far it lies from this one in either box.
    std::int64_t from_step = 1, to_step = 1;  // elements under one index of dimension d
    for (std::size_t d = dims; d-- > outer;) from_step *= from.extent[d], to_step *= to.extent[d];
    for (std::size_t d = outer; d-- > 0;) {
      from_at += from_step, to_at += to_step;
      if (++index[d] < begin[d] + extent[d]) break;
      index[d] = begin[d];
      from_at -= extent[d] * from_step, to_at -= extent[d] * to_step;
      from_step *= from.extent[d], to_step *= to.extent[d];
    }
  }
}

}  // namespace reckon::real
