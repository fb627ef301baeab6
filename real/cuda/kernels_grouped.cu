// Products of groups of rows (the experts' tokens) on tensor cores, without padding and without
// counts on the host: a fixed number of blocks walks over all tiles of all groups, each finding its
// tiles from the groups' offsets in device memory.
//
// A tile of the result is 128 x 128, made by 8 warps of 64 x 32 each. Operand tiles of 128 rows by
// 128 bytes (64 numbers of bf16, 128 of E4M3) come through a ring of asynchronous copies. Operands
// whose rows are the summed dimension are read from shared memory transposed (bf16). E4M3: what one
// tile of 128 adds is summed by itself and then scaled into the result, as DeepSeek-V3 does
// (report, section 3.3.2), which is also how the scales' blocks are laid out. Both are mma.sync,
// which on Hopper reaches some 60 % of what wgmma does.
//
// fp32, and operands of two kinds: plain multiplications, tiles of 64 x 64.
#include <utility>

#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/kernels_gemm.h"
#include "real/cuda/launch.h"
#include "real/cuda/tiles.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

constexpr int kTile = 128;        // rows and columns of a block's result
constexpr int kDepthBytes = 128;  // of a tile along the summed dimension
constexpr int kStages = 3;
constexpr int kThreads = 256;
constexpr int kOperandBytes = kTile * kDepthBytes;

struct Groups {
  GroupIs group_is;
  const std::int32_t* offset;  // null: one group of `rows`
  int groups;
  Index rows;
};

struct Matrix {
  const unsigned char* at;
  Index stride;         // bytes from row to row
  Index group;          // bytes from a group's matrix to the next; 0: groups are ranges of rows
  const float* scales;  // E4M3
  Index scale_stride;   // PerRow: rows of the whole; Square: blocks of a row
  Index scale_group;
  bool square;
};

struct Problem {
  Groups groups;
  Matrix a, b;
  View out;
  Index m, n, k;  // a group's rows stand for m, or for k
  bool accumulate, aligned;
  bool wide = false;  // the result can be written in vectors
};

// The group whose tile a block is at, and what lies before it.
struct Place {
  int group = 0;
  Index first_row = 0, rows = 0;  // of the group
  Index tiles_before = 0, blocks_before = 0;
};

RECKON_DEVICE Index whole(Index n, Index by) {
  return (n + by - 1) / by;
}

// Moves on to the group that has `tile`; false behind the last one.
RECKON_DEVICE bool find(const Problem& p, Index tile, int size, Place& at) {
  for (;; ++at.group) {
    if (at.group >= p.groups.groups) return false;
    const std::int32_t* offset = p.groups.offset;
    at.first_row = offset == nullptr ? 0 : offset[at.group];
    at.rows = (offset == nullptr ? p.groups.rows : offset[at.group + 1]) - at.first_row;
    const bool is_rows = p.groups.group_is == GroupIs::Rows;
    const Index rows_of_result = is_rows ? at.rows : p.m;
    const Index tiles = at.rows == 0 ? 0 : whole(rows_of_result, size) * whole(p.n, size);
    if (tile < at.tiles_before + tiles) return true;
    at.tiles_before += tiles;
    at.blocks_before += whole(at.rows, kTile);
  }
}

// One tile of the result: where its operands begin, and its size. In elements.
struct Work {
  Index row, column;     // in the group's result
  Index a_row, out_row;  // in the whole
  int rows, columns;     // that exist, of this tile
  Index depth;
};

RECKON_DEVICE Work work_of(const Problem& p, const Place& at, Index tile, int size) {
  const bool is_rows = p.groups.group_is == GroupIs::Rows;
  const Index m = is_rows ? at.rows : p.m, tiles_m = whole(m, size), local = tile - at.tiles_before;
  Work w;
  // Neighbouring blocks share columns, that is weights, which are read once.
  w.row = local % tiles_m * size;
  w.column = local / tiles_m * size;
  w.a_row = is_rows ? at.first_row + w.row : w.row;
  w.out_row = is_rows ? at.first_row + w.row : at.group * p.m + w.row;
  w.rows = static_cast<int>(m - w.row < size ? m - w.row : size);
  w.columns = static_cast<int>(p.n - w.column < size ? p.n - w.column : size);
  w.depth = is_rows ? p.k : at.rows;
  return w;
}

struct Rectangle {
  Index row, column;  // in elements, of the matrix as it is stored
  int rows, columns;
};

template <int kElement>
RECKON_DEVICE TileSource source_of(const Matrix& m, Index group, Rectangle r, bool aligned) {
  return {m.at + group * m.group + r.row * m.stride + r.column * kElement, m.stride,
          r.rows > 0 ? r.rows : 0, (r.columns > 0 ? r.columns : 0) * kElement, aligned};
}

template <bool kFp8, bool kTransA, bool kTransB>
struct Ring {
  static constexpr int kElement = kFp8 ? 1 : 2, kDepth = kDepthBytes / kElement;
  static constexpr int kScaleBytes = kFp8 ? 2 * kTile * 4 : 0;
  static constexpr int kStageBytes = 2 * kOperandBytes + kScaleBytes;
  static constexpr int kBytes = kStages * kStageBytes;
  // A transposed tile has kDepth rows of kTile numbers.
  static constexpr int kRowA = kTransA ? kTile * 2 : kDepthBytes;
  static constexpr int kRowB = kTransB ? kTile * 2 : kDepthBytes;

  unsigned char* memory;

  RECKON_DEVICE Tile<kRowA> a(int stage) const { return {memory + stage * kStageBytes}; }
  RECKON_DEVICE Tile<kRowB> b(int stage) const {
    return {memory + stage * kStageBytes + kOperandBytes};
  }
  // Scales of the tile's rows, then of its columns.
  RECKON_DEVICE float* scales(int stage) const {
    return reinterpret_cast<float*>(memory + stage * kStageBytes + 2 * kOperandBytes);
  }

  // Starts the copies of the index-th tiles along the summed dimension.
  RECKON_DEVICE void fetch(const Problem& p, const Place& at, const Work& w, int index) const {
    const int stage = index % kStages;
    const Index k = Index{index} * kDepth;
    const bool sum = p.groups.group_is == GroupIs::Sum;
    const int left = static_cast<int>(w.depth - k < kDepth ? w.depth - k : kDepth);
    // Where the sum begins in the operands: E4M3 codes of groups lie in whole blocks.
    const Index first = !sum ? 0 : kFp8 ? at.blocks_before * kTile : at.first_row;
    const int group = at.group;
    const int codes = kFp8 ? kDepth : left;  // codes are filled up with zeros
    if constexpr (kTransA)
      load_tile<kDepth, kRowA, kThreads>(
          a(stage), source_of<kElement>(p.a, group, {first + k, w.a_row, left, w.rows}, p.aligned));
    else
      load_tile<kTile, kRowA, kThreads>(
          a(stage),
          source_of<kElement>(p.a, group, {w.a_row, first + k, w.rows, codes}, p.aligned));
    if constexpr (kTransB)
      load_tile<kDepth, kRowB, kThreads>(
          b(stage),
          source_of<kElement>(p.b, group, {first + k, w.column, left, w.columns}, p.aligned));
    else
      load_tile<kTile, kRowB, kThreads>(
          b(stage),
          source_of<kElement>(p.b, group, {w.column, first + k, w.columns, codes}, p.aligned));
    if constexpr (kFp8) {
      const int i = static_cast<int>(threadIdx.x) % kTile;
      const bool is_a = threadIdx.x < kTile;
      const Matrix& m = is_a ? p.a : p.b;
      const Index row = (is_a ? w.a_row : w.column) + i, block = first / kTile + index;
      const bool exists = i < (is_a ? w.rows : w.columns);
      const float* from = m.scales + group * m.scale_group;
      from += m.square ? row / kTile * m.scale_stride + block : block * m.scale_stride + row;
      copy_async_4(&scales(stage)[threadIdx.x], exists ? from : m.scales, exists);
    }
  }
};

constexpr int kResultStride = kTile + 4;  // floats; spreads rows over the banks

// Adds N neighbouring sums of a tile's row to the result, or writes them.
template <int N>
RECKON_DEVICE void store_part(const Problem& p, Index to, const float* from) {
  Pack<N> sum;
  for (int i = 0; i < N; ++i) sum.v[i] = from[i];
  if (p.accumulate) {
    const Pack<N> old = load<N>(p.out, to);
    for (int i = 0; i < N; ++i) sum.v[i] += old.v[i];
  }
  store<N>(p.out, to, sum);
}

// A warp's 16 x 8 part of a tile of results in shared memory.
RECKON_DEVICE void keep_part(const float (&part)[4], int row, int column) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float* to = shared_memory<float>() + (row + lane / 4) * kResultStride + column + lane % 4 * 2;
  *reinterpret_cast<float2*>(to) = float2{part[0], part[1]};
  *reinterpret_cast<float2*>(to + 8 * kResultStride) = float2{part[2], part[3]};
}

// Writes the tile of results that the block has put together in shared memory, in whole rows.
RECKON_DEVICE void store_result(const Problem& p, const Work& w) {
  const float* tile = shared_memory<float>();
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile / 8; i += kThreads) {
    const int row = i / (kTile / 8), column = i % (kTile / 8) * 8;
    if (row >= w.rows || column >= w.columns) continue;
    const float* from = tile + row * kResultStride + column;
    const Index to = (w.out_row + row) * p.n + w.column + column;
    if (p.wide)
      store_part<8>(p, to, from);
    else
      for (int e = 0; e < 8 && column + e < w.columns; ++e) store_part<1>(p, to + e, from + e);
  }
}

// What a warp adds up of a tile of results: 64 x 32 in bf16 and E4M3,
template <bool kTransA, bool kTransB>
struct Bf16Sums {
  using Stages = Ring<false, kTransA, kTransB>;
  static constexpr int kBlocksPerSm = 2;
  static constexpr bool kByGroups = false;
  float sum[4][4][4] = {};

  static RECKON_DEVICE int row() { return static_cast<int>(threadIdx.x) / kWarp / 4 * 64; }
  static RECKON_DEVICE int column() { return static_cast<int>(threadIdx.x) / kWarp % 4 * 32; }

  RECKON_DEVICE void add(const Stages& ring, int stage) {
    const auto a = ring.a(stage);
    const auto b = ring.b(stage);
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      std::uint32_t left[4][4], right[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if constexpr (kTransB)
          b.right_transposed(right[j], d * 16, (column() + j * 16) / 8);
        else
          b.right(right[j], column() + j * 16, d * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if constexpr (kTransA)
          a.left_transposed(left[i], d * 16, (row() + i * 16) / 8);
        else
          a.left(left[i], row() + i * 16, d * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply_bf16(sum[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
    }
  }
  RECKON_DEVICE void keep() const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) keep_part(sum[i][j], row() + i * 16, column() + j * 8);
  }
};

// part, of rows from `row` on, times the scales of rows and columns, which are adjacent from
// `column` on.
template <int kParts>
RECKON_DEVICE void add_scaled(float (&sum)[kParts][4], const float (&part)[kParts][4],
                              const float* scales, int row, int column) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float of_row = scales[row + e / 2 * 8 + lane / 4];
#pragma unroll
    for (int j = 0; j < kParts; ++j)
      sum[j][e] += part[j][e] * (of_row * scales[kTile + column + j * 8 + lane % 4 * 2 + e % 2]);
  }
}

struct Fp8Sums {
  using Stages = Ring<true, false, false>;
  static constexpr int kBlocksPerSm = 1;
  static constexpr bool kByGroups = false;
  float sum[4][4][4] = {};

  static RECKON_DEVICE int row() { return static_cast<int>(threadIdx.x) / kWarp / 4 * 64; }
  static RECKON_DEVICE int column() { return static_cast<int>(threadIdx.x) / kWarp % 4 * 32; }

  RECKON_DEVICE void add(const Stages& ring, int stage) {
    const auto a = ring.a(stage);
    const auto b = ring.b(stage);
    std::uint32_t right[4][2][4];  // of all four 32-deep steps
#pragma unroll
    for (int d = 0; d < 4; ++d)
#pragma unroll
      for (int j = 0; j < 2; ++j) b.right(right[d][j], column() + j * 16, d * 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float part[4][4] = {};
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        std::uint32_t left[4];
        a.left(left, row() + i * 16, d * 2);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply_e4m3(part[j], left, right[d][j / 2][j % 2 * 2], right[d][j / 2][j % 2 * 2 + 1]);
      }
      add_scaled(sum[i], part, ring.scales(stage), row() + i * 16, column());
    }
  }
  RECKON_DEVICE void keep() const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) keep_part(sum[i][j], row() + i * 16, column() + j * 8);
  }
};

// and 16 x 128, four warps together, with wgmma.
struct Fp8GroupSums {
  using Stages = Ring<true, false, false>;
  static constexpr int kBlocksPerSm = 1;
  static constexpr bool kByGroups = true;
  float sum[16][4] = {};

  static RECKON_DEVICE int group_row() { return static_cast<int>(threadIdx.x) / (4 * kWarp) * 64; }
  static RECKON_DEVICE int row() { return static_cast<int>(threadIdx.x) / kWarp * 16; }

  RECKON_DEVICE void add(const Stages& ring, int stage) {
    float part[16][4];
    begin_group_products();
#pragma unroll
    for (int d = 0; d < 4; ++d)
      multiply_e4m3_group(part, tile_descriptor(ring.a(stage).at + group_row() * 128 + d * 32),
                          tile_descriptor(ring.b(stage).at + d * 32), d > 0);
    finish_group_products();
    add_scaled(sum, part, ring.scales(stage), row(), 0);
  }
  RECKON_DEVICE void keep() const {
#pragma unroll
    for (int j = 0; j < 16; ++j) keep_part(sum[j], row(), j * 8);
  }
};

template <class Sums>
__global__ void __launch_bounds__(kThreads, Sums::kBlocksPerSm) grouped_kernel(Problem p) {
  using Stages = typename Sums::Stages;
  static_assert(kTile * kResultStride * sizeof(float) <= Stages::kBytes);
  const Stages ring{shared_memory<unsigned char>()};
  Place at;
  for (Index tile = blockIdx.x; find(p, tile, kTile, at); tile += gridDim.x) {
    const Work w = work_of(p, at, tile, kTile);
    const int steps = static_cast<int>(whole(w.depth, Stages::kDepth));
    __syncthreads();  // nobody reads shared memory for the last tile any more
    for (int i = 0; i < kStages - 1; ++i) {
      if (i < steps) ring.fetch(p, at, w, i);
      copy_async_commit();
    }
    Sums sums;
    for (int step = 0; step < steps; ++step) {
      copy_async_wait<kStages - 2>();
      if constexpr (Sums::kByGroups) fence_for_group_products();
      __syncthreads();
      if (step + kStages - 1 < steps) ring.fetch(p, at, w, step + kStages - 1);
      copy_async_commit();
      sums.add(ring, step % kStages);
    }
    copy_async_wait<0>();
    __syncthreads();
    sums.keep();
    store_result(p, w);
  }
}

// ---- fp32

constexpr int kPlainTile = 64, kPlainDepth = 16;

// Element (i, d) of an operand lies at i * row + d * along.
struct PlainMatrix {
  ConstView at;
  Index row, along, group;
};

struct PlainProblem {
  Problem shape;  // without its operands
  PlainMatrix a, b;
};

// to[d][i] = the operand's (first + i, k + d), 0 beyond its size
RECKON_DEVICE void load_plain(float (&to)[kPlainDepth][kPlainTile + 1], const PlainMatrix& m,
                              Index start, int rows, Index depth) {
  for (int t = static_cast<int>(threadIdx.x); t < kPlainTile * kPlainDepth; t += kThreads) {
    // Neighbouring threads read neighbouring numbers.
    const bool along = m.along == 1;
    const int i = along ? t / kPlainDepth : t % kPlainTile;
    const int d = along ? t % kPlainDepth : t / kPlainTile;
    const bool exists = i < rows && d < depth;
    to[d][i] = exists ? load(m.at, start + i * m.row + d * m.along) : 0.0f;
  }
}

__global__ void __launch_bounds__(kThreads) plain_kernel(PlainProblem p) {
  __shared__ float a[kPlainDepth][kPlainTile + 1], b[kPlainDepth][kPlainTile + 1];
  const bool sum_over = p.shape.groups.group_is == GroupIs::Sum;
  const int row = static_cast<int>(threadIdx.x) / 16 * 4,
            column = static_cast<int>(threadIdx.x) % 16 * 4;
  Place at;
  for (Index tile = blockIdx.x; find(p.shape, tile, kPlainTile, at); tile += gridDim.x) {
    const Work w = work_of(p.shape, at, tile, kPlainTile);
    const Index first = sum_over ? at.first_row : 0;
    float sum[4][4] = {};
    for (Index k = 0; k < w.depth; k += kPlainDepth) {
      __syncthreads();
      load_plain(a, p.a, at.group * p.a.group + w.a_row * p.a.row + (first + k) * p.a.along, w.rows,
                 w.depth - k);
      load_plain(b, p.b, at.group * p.b.group + w.column * p.b.row + (first + k) * p.b.along,
                 w.columns, w.depth - k);
      __syncthreads();
      for (int d = 0; d < kPlainDepth; ++d)
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < 4; ++j) sum[i][j] += a[d][row + i] * b[d][column + j];
    }
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        if (row + i >= w.rows || column + j >= w.columns) continue;
        const Index to = (w.out_row + row + i) * p.shape.n + w.column + column + j;
        const float old = p.shape.accumulate ? load(p.shape.out, to) : 0.0f;
        store(p.shape.out, to, old + sum[i][j]);
      }
  }
}

// Blocks to launch: no more than there can be tiles, and as many as run at once.
unsigned blocks_of(const Context& c, const Problem& p, int size, int per_sm) {
  const Index columns = ceil_div(p.n, size);
  const Index tiles = p.groups.group_is == GroupIs::Rows
                          ? (p.groups.rows / size + p.groups.groups) * columns
                          : p.groups.groups * ceil_div(p.m, size) * columns;
  const Index most = Index{c.sm_count} * per_sm;
  return static_cast<unsigned>(tiles < most ? tiles : most);
}

template <class Sums>
void run(const Context& c, Problem p) {
  p.wide = in_vectors(p.n, {p.out.at});
  launch(c.stream, {blocks_of(c, p, kTile, Sums::kBlocksPerSm), kThreads, Sums::Stages::kBytes},
         grouped_kernel<Sums>, p);
}

void grouped_product(const Context& c, Pass pass, const GroupedShape& s, const std::int32_t* offset,
                     ConstView a, ConstView b, View out, bool accumulate) {
  // Forward: out[rows, n] = x[rows, k] w[n, k]^T. Input gradient: dx[rows, k] = dy[rows, n] w[n,
  // k]. Weight gradient: dw[n, k] += dy[rows, n]^T x[rows, k].
  if (library_grouped_product(c, s, {pass, a, b, out, accumulate})) return;
  const bool forward = pass == Pass::Forward, weights = pass == Pass::WeightGrad;
  const Index a_width = forward ? s.k : s.n;  // numbers in a stored row
  const Index b_width = s.k;
  Problem p{};
  p.groups = {weights ? GroupIs::Sum : GroupIs::Rows, offset, static_cast<int>(s.groups), s.rows};
  p.out = out;
  p.m = s.n;
  p.n = forward ? s.n : s.k;
  p.k = forward ? s.k : s.n;
  p.accumulate = accumulate;
  const Index b_group = weights ? 0 : s.n * s.k;
  if (a.element == Element::Bf16 && b.element == Element::Bf16) {
    p.aligned = in_vectors(a_width, {a.at, b.at}) && b_width % 8 == 0;
    p.a = {static_cast<const unsigned char*>(a.at), a_width * 2, 0};
    p.b = {static_cast<const unsigned char*>(b.at), b_width * 2, b_group * 2};
    if (forward) return run<Bf16Sums<false, false>>(c, p);
    return weights ? run<Bf16Sums<true, true>>(c, p) : run<Bf16Sums<false, true>>(c, p);
  }
  PlainProblem plain{p, {a, a_width, 1, 0}, {b, b_width, 1, b_group}};
  if (weights) std::swap(plain.a.row, plain.a.along);
  if (!forward) std::swap(plain.b.row, plain.b.along);
  launch(c.stream, {blocks_of(c, p, kPlainTile, 4), kThreads}, plain_kernel, plain);
}

// ---- E4M3: both operands are quantised into scratch

Matrix fp8_operand(const Fp8Matrix& m, bool groups) {
  const bool square = m.kind == Fp8Scales::Square;
  const Index stride = fp8_stride(m.cols);
  return {.at = m.codes,
          .stride = stride,
          .group = groups ? m.rows * stride : 0,
          .scales = m.scales,
          .scale_stride = square ? fp8_square_stride(m.cols) : m.rows,
          .scale_group = groups ? fp8_scale_count(m.rows, m.cols, m.kind) : 0,
          .square = square};
}

Fp8Matrix room_for(Carver& carve, Index rows, Index cols, Fp8Scales kind, Index matrices) {
  Fp8Matrix m{.rows = rows, .cols = cols, .kind = kind};
  m.codes = carve.take<std::uint8_t>(matrices * rows * fp8_stride(cols));
  m.scales = carve.take<float>(matrices * fp8_scale_count(rows, cols, kind));
  return m;
}

// a, b as room_for makes them, twice: to count, then to carve.
template <class Make>
void with_rooms(const Context& c, Make make) {
  Carver sizes(nullptr);
  make(sizes, false);
  Carver carve(c.scratch(sizes.used()));
  make(carve, true);
}

}  // namespace

void own_fp8_product(const Context& c, const Fp8Groups& g, const Fp8Matrix& a, const Fp8Matrix& b,
                     View out, bool accumulate) {
  check(a.kind == Fp8Scales::PerRow && a.cols == b.cols, "E4M3 operands fit together");
  const bool per_group = g.offset != nullptr && g.group_is == GroupIs::Rows;
  Problem p{};
  p.groups = {g.group_is, g.offset, static_cast<int>(g.groups), g.rows};
  p.a = fp8_operand(a, false);
  p.b = fp8_operand(b, per_group);
  p.out = out;
  p.m = a.rows;
  p.n = b.rows;
  p.k = a.cols;
  p.accumulate = accumulate;
  p.aligned = true;
  c.warp_groups ? run<Fp8GroupSums>(c, p) : run<Fp8Sums>(c, p);
}

void linear_grouped_forward(const Context& c, const GroupedShape& s, const std::int32_t* offset,
                            ConstView x, ConstView w, View y) {
  if (s.rows == 0) return;
  if (s.numbers != Numbers::Fp8Block)
    return grouped_product(c, Pass::Forward, s, offset, x, w, y, false);
  with_rooms(c, [&](Carver& carve, bool real) {
    const Fp8Matrix a = room_for(carve, s.rows, s.k, Fp8Scales::PerRow, 1);
    const Fp8Matrix b = room_for(carve, s.n, s.k, Fp8Scales::Square, s.groups);
    if (!real) return;
    quantise_rows(c, {.rows = s.rows, .cols = s.k}, x, a);
    quantise_rows(c, {.rows = s.n, .cols = s.k, .matrices = s.groups}, w, b);
    own_fp8_product(c, {GroupIs::Rows, offset, s.groups, s.rows}, a, b, y, false);
  });
}

void linear_grouped_input_grad(const Context& c, const GroupedShape& s, const std::int32_t* offset,
                               ConstView dy, ConstView w, View dx, bool accumulate) {
  if (s.rows == 0) return;
  if (s.numbers != Numbers::Fp8Block)
    return grouped_product(c, Pass::InputGrad, s, offset, dy, w, dx, accumulate);
  with_rooms(c, [&](Carver& carve, bool real) {
    const Fp8Matrix a = room_for(carve, s.rows, s.n, Fp8Scales::PerRow, 1);
    const Fp8Matrix b = room_for(carve, s.k, s.n, Fp8Scales::Square, s.groups);
    if (!real) return;
    quantise_rows(c, {.rows = s.rows, .cols = s.n}, dy, a);
    quantise_rows(c, {.rows = s.n, .cols = s.k, .transposed = true, .matrices = s.groups}, w, b);
    own_fp8_product(c, {GroupIs::Rows, offset, s.groups, s.rows}, a, b, dx, accumulate);
  });
}

void linear_grouped_weight_grad(const Context& c, const GroupedShape& s, const std::int32_t* offset,
                                ConstView dy, ConstView x, View dw) {
  if (s.rows == 0) return;
  if (s.numbers != Numbers::Fp8Block)
    return grouped_product(c, Pass::WeightGrad, s, offset, dy, x, dw, true);
  with_rooms(c, [&](Carver& carve, bool real) {
    const Index padded = s.rows + kTile * s.groups;
    const Fp8Matrix a = room_for(carve, s.n, padded, Fp8Scales::PerRow, 1);
    const Fp8Matrix b = room_for(carve, s.k, padded, Fp8Scales::PerRow, 1);
    if (!real) return;
    const auto turned = [&](Index cols) {
      return QuantiseShape{
          .rows = s.rows, .cols = cols, .transposed = true, .offset = offset, .groups = s.groups};
    };
    quantise_rows(c, turned(s.n), dy, a);
    quantise_rows(c, turned(s.k), x, b);
    own_fp8_product(c, {GroupIs::Sum, offset, s.groups, s.rows}, a, b, dw, true);
  });
}

}  // namespace reckon::real::cuda
