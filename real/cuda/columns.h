// Sums down the columns of terms [rows, width], in two launches: blocks add up a band of rows each,
// then the bands are added in order and onto what the result holds. Terms are computed where they
// are needed, up to kSums sums from one pass.
#pragma once

#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda {

struct ColumnsShape {
  Index rows, width;
};

constexpr unsigned kColumnThreads = 128;

template <int kSums>
struct ColumnResults {
  View at[kSums];  // null: not wanted
};

// partial[sum, band, width]. A thread adds N neighbouring columns of one band.
template <int N, int kSums, class Term>
__global__ void add_bands_kernel(ColumnsShape s, Index band_rows, Term term, float* partial) {
  const Index column = (Index{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (column >= s.width) return;
  const Index begin = blockIdx.y * band_rows;
  const Index end = begin + band_rows < s.rows ? begin + band_rows : s.rows;
  Pack<N> sum[kSums] = {};
  for (Index row = begin; row < end; ++row) term.template add<N>(row, column, s.width, sum);
  for (int i = 0; i < kSums; ++i)
    store<N>(View(partial), (Index{i} * gridDim.y + blockIdx.y) * s.width + column, sum[i]);
}

template <int kSums>
__global__ void finish_columns_kernel(Index width, Index bands, const float* partial,
                                      ColumnResults<kSums> out) {
  const Index column = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  const View to = out.at[blockIdx.y];
  if (column >= width || to.at == nullptr) return;
  float sum = 0;
  for (Index band = 0; band < bands; ++band)
    sum += partial[(blockIdx.y * bands + band) * width + column];
  store(to, column, load(to, column) + sum);
}

// result[i] += column sums of the i-th term. Uses the context's scratch.
template <int kSums, class Term>
void add_columns(const Context& c, ColumnsShape s, bool wide, const Term& term,
                 const View (&result)[kSums]) {
  const Index lanes = ceil_div(s.width, wide ? 8 : 1), blocks = ceil_div(lanes, kColumnThreads);
  // Bands enough to give every SM several blocks, of 16 rows at least.
  const Index wanted = ceil_div(Index{c.sm_count} * 8, blocks);
  const Index most = ceil_div(s.rows, 16);
  const Index band_rows = ceil_div(s.rows, wanted < most ? wanted : most);
  const Index bands = ceil_div(s.rows, band_rows);
  auto* partial = static_cast<float*>(
      c.scratch(static_cast<std::size_t>(Index{kSums} * bands * s.width) * sizeof(float)));
  with_pack(wide, [&](auto pack) {
    launch(c.stream,
           {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(bands)), kColumnThreads},
           add_bands_kernel<pack(), kSums, Term>, s, band_rows, term, partial);
  });
  ColumnResults<kSums> out;
  for (int i = 0; i < kSums; ++i) out.at[i] = result[i];
  launch(c.stream,
         {dim3(static_cast<unsigned>(ceil_div(s.width, kColumnThreads)), kSums), kColumnThreads},
         finish_columns_kernel<kSums>, s.width, bands, partial, out);
}

}  // namespace reckon::real::cuda
