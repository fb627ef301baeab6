// How pieces of one tensor overlap: copies between any two of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "real/checkpoint.h"

namespace reckon::real {

// Why the piece can't be one of its tensor: sizes that differ, a box outside the shape, a range
// outside the box. Empty if it can.
std::string piece_error(const Piece& piece);

std::string shape_text(const std::vector<std::int64_t>& shape);  // "[3, 5]"
// The place in the whole tensor of element `at` of the piece's flattened box, "[2, 0]".
std::string element_text(const Piece& piece, std::int64_t at);

// Which elements of a piece have been filled: one bit each.
class Filled {
 public:
  explicit Filled(std::int64_t count)
      : count_(count), words_(static_cast<std::size_t>((count + 63) / 64), 0) {}
  void fill(std::int64_t begin, std::int64_t count);
  std::int64_t first_gap() const;  // count if there is none

 private:
  std::int64_t count_;
  std::vector<std::uint64_t> words_;
};

// Copies the elements that both pieces hold from in[from.count] to out[to.count], and marks them.
// REQUIRES: both pieces are right and of one shape. Run by run: time grows with the number of runs
// of elements that lie together in both, not with elements, and rows outside either's range are
// stepped over at once.
struct PieceValues {
  const Piece& piece;
  const float* values;
};
void copy_common(const PieceValues& from, const Piece& to, float* out, Filled& filled);

}  // namespace reckon::real
