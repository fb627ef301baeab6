// E4M3 matrices and the optimizer's step.
//
// Quantising: a block takes a tile of 128 x 128 numbers into shared memory, which holds whole
// blocks of every shape of scale, and writes its codes along rows or, transposed, along columns.
// Rows of a group (an expert's tokens) may be cut into blocks from the group's first row on, each
// group in whole blocks of its own.
//
// AdamW: all parameters of a step in a few launches; a launch's arguments carry 40 pieces, cut into
// equal chunks, one per block. The sum of squares is taken in double by a fixed number of blocks,
// then over blocks in order.
#include <cmath>

#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/kernels_gemm.h"
#include "real/cuda/launch.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

constexpr int kBlock = 128;              // numbers that share a scale, each way
constexpr int kTileStride = kBlock + 1;  // no bank conflicts down a column
constexpr float kE4m3Largest = 448;
constexpr unsigned kThreads = 256;

RECKON_DEVICE float scale_of(float largest) {
  const float s = largest / kE4m3Largest;
  return s > 0 ? s : 1.0f;  // a block of zeros
}

RECKON_DEVICE float largest_of(float a, float b) {
  return b > a ? b : a;
}

struct Source {
  ConstView x;
  Index rows, cols;
  bool wide, transposed;
  const std::int32_t* offset;  // of groups of rows, or null
  Index groups;
};

// blockIdx.x: tile along x's columns; blockIdx.y: along its rows; blockIdx.z: which of the matrices
// that lie behind one another.
__global__ void quantise_kernel(Source in, Fp8Matrix out) {
  __shared__ float room[kWarp];
  float* tile = shared_memory<float>();
  const Index before_x = blockIdx.z * in.rows * in.cols;
  out.codes += blockIdx.z * out.rows * fp8_stride(out.cols);
  out.scales += blockIdx.z * fp8_scale_count(out.rows, out.cols, out.kind);
  // Rows of this tile, and the tile's number among those of all groups.
  Index row = Index{blockIdx.y} * kBlock, row_end = in.rows;
  if (in.offset != nullptr) {
    Index before = 0, g = 0;
    for (; g < in.groups; ++g) {
      const Index tiles = (in.offset[g + 1] - in.offset[g] + kBlock - 1) / kBlock;
      if (blockIdx.y < before + tiles) break;
      before += tiles;
    }
    if (g == in.groups) return;
    row = in.offset[g] + (Index{blockIdx.y} - before) * kBlock;
    row_end = in.offset[g + 1];
  }
  const Index column = Index{blockIdx.x} * kBlock;
  for (int p = static_cast<int>(threadIdx.x); p < kBlock * kBlock / 8; p += kThreads) {
    const int i = p / (kBlock / 8), j = p % (kBlock / 8) * 8;
    Pack<8> values{};
    if (row + i < row_end) {
      const Index at = before_x + (row + i) * in.cols + column + j;
      if (in.wide && column + j + 8 <= in.cols)
        values = load<8>(in.x, at);
      else
        for (int l = 0; l < 8; ++l)
          if (column + j + l < in.cols) values.v[l] = load(in.x, at + l);
    }
    for (int l = 0; l < 8; ++l) tile[i * kTileStride + j + l] = values.v[l];
  }
  __syncthreads();

  // Two threads to a line of the result, which is a row or a column of the tile.
  constexpr int kHalf = kBlock / 2;
  const int line = static_cast<int>(threadIdx.x) / 2, half = static_cast<int>(threadIdx.x) % 2;
  const int step = in.transposed ? kTileStride : 1;
  const float* from = tile + (in.transposed ? line : line * kTileStride) + half * kHalf * step;
  float largest = 0;
  for (int i = 0; i < kHalf; ++i) largest = largest_of(largest, fabsf(from[i * step]));
  largest = largest_of(largest, shuffle_xor(largest, 1));
  if (out.kind == Fp8Scales::Square) largest = block_max(largest, room);
  const float scale = scale_of(largest);

  const Index out_row = in.transposed ? column + line : row + line;
  const Index out_block = in.transposed ? Index{blockIdx.y} : Index{blockIdx.x};
  const bool exists = in.transposed ? out_row < in.cols : out_row < row_end;
  if (out.kind == Fp8Scales::Square) {
    const Index square_row = in.transposed ? Index{blockIdx.x} : Index{blockIdx.y};
    if (threadIdx.x == 0) out.scales[square_row * fp8_square_stride(out.cols) + out_block] = scale;
  } else if (half == 0 && exists) {
    out.scales[out_block * out.rows + out_row] = scale;
  }
  if (!exists) return;
  std::uint8_t* to = out.codes + out_row * fp8_stride(out.cols) + out_block * kBlock + half * kHalf;
  for (int i = 0; i < kHalf; i += 16) {
    std::uint32_t word[4];
    for (int w = 0; w < 4; ++w) {
      const float* v = from + (i + 4 * w) * step;
      const std::uint32_t low = pack_e4m3(v[0] / scale, v[step] / scale);
      const std::uint32_t high = pack_e4m3(v[2 * step] / scale, v[3 * step] / scale);
      word[w] = low | high << 16;
    }
    *reinterpret_cast<uint4*>(to + i) = uint4{word[0], word[1], word[2], word[3]};
  }
}

// A block per block of numbers that share a scale.
__global__ void round_fp8_kernel(ConstView x, View out, Index m, Index n, Index block_rows,
                                 Index block_cols) {
  __shared__ float room[kWarp];
  const Index row = blockIdx.x * block_rows, column = blockIdx.y * block_cols;
  const Index rows = m - row < block_rows ? m - row : block_rows;
  const Index cols = n - column < block_cols ? n - column : block_cols;
  float largest = 0;
  for (Index i = threadIdx.x; i < rows * cols; i += blockDim.x)
    largest = largest_of(largest, fabsf(load(x, (row + i / cols) * n + column + i % cols)));
  const float scale = scale_of(block_max(largest, room));
  for (Index i = threadIdx.x; i < rows * cols; i += blockDim.x) {
    const Index at = (row + i / cols) * n + column + i % cols;
    const std::uint16_t code = pack_e4m3(load(x, at) / scale, 0);
    store(out, at, widen_e4m3(static_cast<std::uint8_t>(code & 0xff)) * scale);
  }
}

// ---- optimizer

// The constants of one update, in fp32 as the loop uses them.
struct AdamConstants {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;        // lr / (1 - beta1^t)
  float root_correction;  // 1 / sqrt(1 - beta2^t)
  float eps;
};

struct Piece {
  ConstView grad;
  View w, m, v;
  float* master;
  Index n, first_chunk;
  float decay;  // lr * weight_decay
  bool wide;
};

constexpr int kPieces = 40;  // 3.9 KB of arguments; 4 KB fit every driver
constexpr Index kChunk = 8192;

struct Pieces {
  Piece piece[kPieces];
  int count;
};

template <int N>
RECKON_DEVICE void update(const AdamConstants& c, const Piece& p, Index i, float gradient_scale) {
  const View master = p.master == nullptr ? p.w : View(p.master);
  const Pack<N> grad = load<N>(p.grad, i);
  Pack<N> w = load<N>(master, i), m = load<N>(p.m, i), v = load<N>(p.v, i);
  for (int j = 0; j < N; ++j) {
    const float g = grad.v[j] * gradient_scale;
    m.v[j] = c.beta1 * m.v[j] + c.one_minus_beta1 * g;
    v.v[j] = c.beta2 * v.v[j] + c.one_minus_beta2 * g * g;
    w.v[j] -= c.step_size * m.v[j] / (sqrtf(v.v[j]) * c.root_correction + c.eps) + p.decay * w.v[j];
  }
  store<N>(p.m, i, m);
  store<N>(p.v, i, v);
  store<N>(master, i, w);
  if (p.master != nullptr) store<N>(p.w, i, w);
}

__global__ void adam_kernel(AdamConstants c, Pieces all, const float* gradient_scale) {
  int at = 0;
  while (at + 1 < all.count && all.piece[at + 1].first_chunk <= blockIdx.x) ++at;
  const Piece& p = all.piece[at];
  const float scale = gradient_scale == nullptr ? c.gradient_scale : *gradient_scale;
  const Index begin = (blockIdx.x - p.first_chunk) * kChunk;
  const Index end = begin + kChunk < p.n ? begin + kChunk : p.n;
  const Index whole = p.wide ? begin + (end - begin) / 8 * 8 : begin;
  for (Index i = begin + Index{threadIdx.x} * 8; i < whole; i += Index{blockDim.x} * 8)
    update<8>(c, p, i, scale);
  for (Index i = whole + threadIdx.x; i < end; i += blockDim.x) update<1>(c, p, i, scale);
}

constexpr unsigned kSquareBlocks = 1024;

template <int N>
__global__ void squares_kernel(ConstView x, Index n, double* partial) {
  __shared__ double room[kWarp];
  double sum = 0;
  const Index step = Index{gridDim.x} * blockDim.x * N;
  for (Index i = (Index{blockIdx.x} * blockDim.x + threadIdx.x) * N; i < n; i += step) {
    const Pack<N> p = load<N>(x, i);
    for (int j = 0; j < N; ++j) sum += static_cast<double>(p.v[j]) * static_cast<double>(p.v[j]);
  }
  sum = block_sum(sum, room);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void finish_squares_kernel(const double* partial, int n, double* out) {
  __shared__ double room[kWarp];
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    sum += partial[i];
  sum = block_sum(sum, room);
  if (threadIdx.x == 0) *out += sum;
}

__global__ void clip_scale_kernel(const double* square, double clip, float* scale) {
  if (threadIdx.x != 0) return;
  // Rounded first, so that the order in which ranks have added it does not reach the weights.
  const double norm = static_cast<double>(static_cast<float>(sqrt(*square)));
  *scale = clip > 0 && norm > clip ? static_cast<float>(clip / norm) : 1.0f;
}

}  // namespace

void quantise_rows(const Context& c, const QuantiseShape& s, ConstView x, const Fp8Matrix& out) {
  const Source in{x,
                  s.rows,
                  s.cols,
                  in_vectors(s.cols, {x.at}) && s.rows * s.cols % 8 == 0,
                  s.transposed,
                  s.offset,
                  s.groups};
  const Index tiles = ceil_div(s.rows, kBlock) + (s.offset == nullptr ? 0 : s.groups);
  launch(c.stream,
         {dim3(static_cast<unsigned>(ceil_div(s.cols, kBlock)), static_cast<unsigned>(tiles),
               static_cast<unsigned>(s.matrices)),
          kThreads, kBlock * kTileStride * sizeof(float)},
         quantise_kernel, in, out);
}

void quantise(const Context& c, ConstView x, const Fp8Matrix& out) {
  quantise_rows(c, {.rows = out.rows, .cols = out.cols}, x, out);
}

void quantise_transposed(const Context& c, ConstView x, const Fp8Matrix& out) {
  quantise_rows(c, {.rows = out.cols, .cols = out.rows, .transposed = true}, x, out);
}

void round_fp8(const Context& c, ConstView x, View out, Index m, Index n, Index block_rows,
               Index block_cols) {
  if (m == 0 || n == 0) return;
  launch(c.stream,
         {dim3(static_cast<unsigned>(ceil_div(m, block_rows)),
               static_cast<unsigned>(ceil_div(n, block_cols))),
          128},
         round_fp8_kernel, x, out, m, n, block_rows, block_cols);
}

void square_sum(const Context& c, ConstView x, Index n, double* sum) {
  if (n == 0) return;
  auto* partial = static_cast<double*>(c.scratch(kSquareBlocks * sizeof(double)));
  const bool wide = in_vectors(n, {x.at});
  const Index wanted = ceil_div(n, Index{kThreads} * (wide ? 8 : 1));
  const unsigned blocks = wanted < kSquareBlocks ? static_cast<unsigned>(wanted) : kSquareBlocks;
  with_pack(wide, [&](auto pack) {
    launch(c.stream, {blocks, kThreads}, squares_kernel<pack()>, x, n, partial);
  });
  launch(c.stream, {1, 1024}, finish_squares_kernel, partial, static_cast<int>(blocks), sum);
}

void clip_scale(const Context& c, const double* square, double clip, float* scale) {
  launch(c.stream, {1, kWarp}, clip_scale_kernel, square, clip, scale);
}

void adam_update(const Context& c, const Adam& a, const AdamPiece* pieces, std::size_t count,
                 const float* gradient_scale) {
  const double t = static_cast<double>(a.step);
  const AdamConstants constants{
      .gradient_scale = static_cast<float>(a.gradient_scale),
      .beta1 = static_cast<float>(a.beta1),
      .one_minus_beta1 = static_cast<float>(1 - a.beta1),
      .beta2 = static_cast<float>(a.beta2),
      .one_minus_beta2 = static_cast<float>(1 - a.beta2),
      .step_size = static_cast<float>(a.lr / (1 - std::pow(a.beta1, t))),
      .root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(a.beta2, t))),
      .eps = static_cast<float>(a.eps),
  };
  Pieces all{};
  Index chunks = 0;
  const auto flush = [&] {
    launch(c.stream, {static_cast<unsigned>(chunks), kThreads}, adam_kernel, constants, all,
           gradient_scale);
    all.count = 0;
    chunks = 0;
  };
  for (std::size_t i = 0; i < count; ++i) {
    const AdamPiece& p = pieces[i];
    check(p.master != nullptr || p.w.element == Element::Fp32, "16-bit weights have a master");
    if (p.n == 0) continue;
    all.piece[all.count++] = {p.grad,
                              p.w,
                              p.m,
                              p.v,
                              p.master,
                              p.n,
                              chunks,
                              static_cast<float>(a.lr * p.weight_decay),
                              in_vectors(8, {p.grad.at, p.w.at, p.m.at, p.v.at, p.master})};
    chunks += ceil_div(p.n, kChunk);
    if (all.count == kPieces) flush();
  }
  flush();
}

}  // namespace reckon::real::cuda
