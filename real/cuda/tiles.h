// Tiles of 16-byte chunks in shared memory, as tensor cores read them. Rows are kRowBytes long, a
// multiple of 128; chunk c of row r lies at place c ^ (r % 8), so that the eight rows that one 8x8
// matrix is read from lie in different banks.
#pragma once

#include "real/cuda/device.h"

namespace reckon::real::cuda {

template <int kRowBytes>
struct Tile {
  unsigned char* at;

  RECKON_DEVICE unsigned char* chunk(int row, int c) const {
    return at + row * kRowBytes + ((c ^ (row & 7)) * 16);
  }

  // Fragments of rows [row, row + 16) at chunks [c, c + 2), 16 deep in bf16 and 32 in E4M3: of the
  // left operand,
  RECKON_DEVICE void left(std::uint32_t (&a)[4], int row, int c) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices(a, chunk(row + lane % 16, c + lane / 16));
  }
  // and of the right one: b[0], b[1] for its first 8 rows (columns of the result), b[2], b[3] for
  // the others.
  RECKON_DEVICE void right(std::uint32_t (&b)[4], int row, int c) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices(b, chunk(row + lane % 8 + lane / 16 * 8, c + lane / 8 % 2));
  }

  // The same of an operand whose tile is stored transposed, bf16 only: rows of the tile are the
  // summed dimension, [row, row + 16); chunks [c, c + 2) are 16 rows of the operand.
  RECKON_DEVICE void left_transposed(std::uint32_t (&a)[4], int row, int c) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices_transposed(a, chunk(row + lane % 8 + lane / 16 * 8, c + lane / 8 % 2));
  }
  RECKON_DEVICE void right_transposed(std::uint32_t (&b)[4], int row, int c) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices_transposed(b, chunk(row + lane % 16, c + lane / 16));
  }
};

// Where a tile comes from: rows `stride` bytes apart, of which the first `rows` and of each row the
// first `bytes` exist; the rest of the tile becomes 0.
struct TileSource {
  const unsigned char* at;
  std::int64_t stride;
  int rows, bytes;
  // Addresses, strides and `bytes` are multiples of 16: copies are asynchronous. Else (bf16 alone)
  // they are made number by number.
  bool aligned;
};

template <int kRows, int kRowBytes, int kThreads>
RECKON_DEVICE void load_tile(Tile<kRowBytes> tile, const TileSource& from) {
  constexpr int kChunks = kRowBytes / 16;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, c = i % kChunks;
    const unsigned char* source = from.at + row * from.stride + c * 16;
    if (from.aligned) {
      const bool exists = row < from.rows && c * 16 < from.bytes;
      copy_async_16(tile.chunk(row, c), exists ? source : from.at, exists);
      continue;
    }
    std::uint32_t word[4] = {};
    for (int e = 0; e < 8; ++e)
      if (row < from.rows && c * 16 + 2 * e < from.bytes)
        word[e / 2] |= static_cast<std::uint32_t>(reinterpret_cast<const std::uint16_t*>(source)[e])
                       << (16 * (e % 2));
    *reinterpret_cast<uint4*>(tile.chunk(row, c)) = uint4{word[0], word[1], word[2], word[3]};
  }
}

}  // namespace reckon::real::cuda
