// Rows of tokens: gather, combine and their gradients; embedding; cross-entropy over a slice of the
// vocabulary; the stable sort of sort.h.
//
// Rows move in vectors of 16 bytes, a warp or more to a row. The embedding's gradient adds rows of
// one id in order of their tokens: tokens are sorted by id (stable, digit by digit), then each run
// of equal ids is summed by one block. Without `deterministic`, and with an fp32 table, rows are
// added by atomics instead.
//
// Cross-entropy reads a row of logits once: each thread keeps the largest logit it has seen and the
// sum of exponentials relative to it, which are joined at the end. No copy of the logits is made.
#include <utility>

#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"
#include "real/cuda/sort.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

constexpr unsigned kThreads = 256;

__device__ Index first_item() {
  return Index{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ Index all_threads() {
  return Index{gridDim.x} * blockDim.x;
}

template <int N>
__global__ void gather_kernel(ConstView x, const std::int32_t* rows, Index n, Index width,
                              View out) {
  for (Index at = first_item() * N; at < n * width; at += all_threads() * N)
    store<N>(out, at, load<N>(x, rows[at / width] * width + at % width));
}

__global__ void gather_ints_kernel(const std::int32_t* x, const std::int32_t* rows, Index n,
                                   Index width, std::int32_t* out) {
  for (Index at = first_item(); at < n * width; at += all_threads())
    out[at] = x[rows[at / width] * width + at % width];
}

struct CombineShape {
  Index tokens, top_k, width;
};

template <int N>
__global__ void combine_kernel(CombineShape s, ConstView x, const std::int32_t* row,
                               const float* weight, View out, bool accumulate) {
  for (Index at = first_item() * N; at < s.tokens * s.width; at += all_threads() * N) {
    const Index t = at / s.width, column = at % s.width;
    Pack<N> sum{};
    if (accumulate) sum = load<N>(out, at);
    for (Index j = 0; j < s.top_k; ++j) {
      const Pack<N> p = load<N>(x, row[t * s.top_k + j] * s.width + column);
      const float w = weight == nullptr ? 1.0f : weight[t * s.top_k + j];
      for (int i = 0; i < N; ++i) sum.v[i] += w * p.v[i];
    }
    store<N>(out, at, sum);
  }
}

// A block per (token, j).
template <int N>
__global__ void combine_backward_kernel(CombineShape s, ConstView dout, ConstView x,
                                        const std::int32_t* row, const float* weight, View dx,
                                        float* dweight) {
  __shared__ float room[kWarp];
  const Index at = blockIdx.x, t = at / s.top_k, to = row[at] * s.width;
  const float w = weight == nullptr ? 1.0f : weight[at];
  float dot = 0;
  for (Index j = Index{threadIdx.x} * N; j < s.width; j += Index{blockDim.x} * N) {
    Pack<N> d = load<N>(dout, t * s.width + j);
    if (dweight != nullptr) {
      const Pack<N> p = load<N>(x, to + j);
      for (int i = 0; i < N; ++i) dot += d.v[i] * p.v[i];
    }
    for (int i = 0; i < N; ++i) d.v[i] *= w;
    store<N>(dx, to + j, d);
  }
  if (dweight == nullptr) return;
  dot = block_sum(dot, room);
  if (threadIdx.x == 0) dweight[at] = dot;
}

// ---- embedding

struct Vocabulary {
  std::int32_t begin, end;
};

__global__ void token_ids_kernel(const std::int32_t* tokens, Index batch, Index stride,
                                 const std::int32_t* position, Index positions, Index shift,
                                 std::int32_t* ids) {
  for (Index i = first_item(); i < batch * positions; i += all_threads())
    ids[i] = tokens[i / positions * stride + position[i % positions] + shift];
}

template <int N>
__global__ void embedding_kernel(ConstView table, const std::int32_t* ids, Index n, Index width,
                                 Vocabulary v, View out) {
  for (Index at = first_item() * N; at < n * width; at += all_threads() * N) {
    const Index id = ids[at / width];
    Pack<N> p{};
    if (id >= v.begin && id < v.end) p = load<N>(table, (id - v.begin) * width + at % width);
    store<N>(out, at, p);
  }
}

__global__ void embedding_atomic_kernel(ConstView dout, const std::int32_t* ids, Index n,
                                        Index width, Vocabulary v, float* dtable) {
  for (Index at = first_item(); at < n * width; at += all_threads()) {
    const Index id = ids[at / width];
    if (id >= v.begin && id < v.end)
      atomicAdd(&dtable[(id - v.begin) * width + at % width], load(dout, at));
  }
}

// order[n]: tokens sorted by id. A block per place; the one where a run of equal ids begins adds
// it.
template <int N>
__global__ void embedding_sum_kernel(ConstView dout, const std::int32_t* ids,
                                     const std::int32_t* order, Index n, Index width, Vocabulary v,
                                     View dtable) {
  const Index first = blockIdx.x;
  const Index id = ids[order[first]];
  if (id < v.begin || id >= v.end || (first > 0 && ids[order[first - 1]] == id)) return;
  for (Index j = Index{threadIdx.x} * N; j < width; j += Index{blockDim.x} * N) {
    Pack<N> sum = load<N>(dtable, (id - v.begin) * width + j);
    for (Index i = first; i < n && ids[order[i]] == id; ++i) {
      const Pack<N> d = load<N>(dout, order[i] * width + j);
      for (int l = 0; l < N; ++l) sum.v[l] += d.v[l];
    }
    store<N>(dtable, (id - v.begin) * width + j, sum);
  }
}

// ---- cross-entropy

template <int N>
__global__ void loss_partial_kernel(ConstView logits, const std::int32_t* target, Index slice,
                                    std::int32_t begin, float* partial) {
  __shared__ float room[kWarp];
  const Index row = blockIdx.x;
  float maximum = -kInfinity, sum = 0;
  for (Index j = Index{threadIdx.x} * N; j < slice; j += Index{blockDim.x} * N) {
    const Pack<N> p = load<N>(logits, row * slice + j);
    float larger = maximum;
    for (int i = 0; i < N; ++i) larger = p.v[i] > larger ? p.v[i] : larger;
    if (larger > maximum) {
      sum *= expf(maximum - larger);
      maximum = larger;
    }
    const float shift = maximum == -kInfinity ? 0 : maximum;
    for (int i = 0; i < N; ++i) sum += expf(p.v[i] - shift);
  }
  const float largest = block_max(maximum, room);
  const float factor = maximum == -kInfinity ? 1.0f : expf(maximum - largest);
  sum = block_sum(sum * factor, room);
  if (threadIdx.x != 0) return;
  const Index at = Index{target[row]} - begin;
  const bool inside = target[row] >= 0 && at >= 0 && at < slice;
  partial[3 * row] = largest;
  partial[3 * row + 1] = sum;
  partial[3 * row + 2] = inside ? load(logits, row * slice + at) : 0;
}

// One block, so that the sum has one order.
__global__ void loss_combine_kernel(const float* partials, const std::int32_t* target, Index ranks,
                                    Index n, float* lse, double* loss) {
  __shared__ double room[kWarp];
  double total = 0;
  for (Index i = threadIdx.x; i < n; i += blockDim.x) {
    float maximum = -kInfinity;
    for (Index r = 0; r < ranks; ++r) {
      const float of_rank = partials[(r * n + i) * 3];
      maximum = of_rank > maximum ? of_rank : maximum;
    }
    double sum = 0, logit = 0;
    for (Index r = 0; r < ranks; ++r) {
      const float* p = partials + (r * n + i) * 3;
      sum +=
          exp(static_cast<double>(p[0]) - static_cast<double>(maximum)) * static_cast<double>(p[1]);
      logit += static_cast<double>(p[2]);
    }
    const double log_sum = static_cast<double>(maximum) + log(sum);
    lse[i] = static_cast<float>(log_sum);
    if (target[i] >= 0) total += log_sum - logit;
  }
  total = block_sum(total, room);
  if (threadIdx.x == 0) *loss += total;
}

template <int N>
__global__ void loss_backward_kernel(View logits, const std::int32_t* target, const float* lse,
                                     Index slice, std::int32_t begin, float scale) {
  const Index row = blockIdx.x;
  const bool counts = target[row] >= 0;
  const Index at = Index{target[row]} - begin;
  for (Index j = Index{threadIdx.x} * N; j < slice; j += Index{blockDim.x} * N) {
    Pack<N> p = load<N>(logits, row * slice + j);
    for (int i = 0; i < N; ++i) {
      p.v[i] = counts ? scale * expf(p.v[i] - lse[row]) : 0.0f;
      if (counts && j + i == at) p.v[i] -= scale;
    }
    store<N>(logits, row * slice + j, p);
  }
}

// ---- the sort. chunk_counts[chunks, bins].

__global__ void sort_count_kernel(SortShape s, SortKey key, std::int32_t* chunk_counts) {
  auto* counts = shared_memory<std::int32_t>();
  for (int b = static_cast<int>(threadIdx.x); b < s.bins; b += kWarp) counts[b] = 0;
  sync_warp();
  const Index begin = blockIdx.x * kSortChunk;
  const Index end = begin + kSortChunk < s.n ? begin + kSortChunk : s.n;
  for (Index i = begin + threadIdx.x; i < end; i += kWarp) atomicAdd(&counts[key(i)], 1);
  sync_warp();
  for (int b = static_cast<int>(threadIdx.x); b < s.bins; b += kWarp)
    chunk_counts[Index{blockIdx.x} * s.bins + b] = counts[b];
}

// Turns counts of chunks into sums over the chunks before. totals[bins].
__global__ void sort_chunks_kernel(SortShape s, Index chunks, std::int32_t* chunk_counts,
                                   std::int32_t* totals) {
  const Index b = first_item();
  if (b >= s.bins) return;
  std::int32_t sum = 0;
  for (Index chunk = 0; chunk < chunks; ++chunk) {
    const std::int32_t n = chunk_counts[chunk * s.bins + b];
    chunk_counts[chunk * s.bins + b] = sum;
    sum += n;
  }
  totals[b] = sum;
}

// starts[bins + 1] from totals[bins]; one warp.
__global__ void sort_starts_kernel(SortShape s, const std::int32_t* totals, std::int32_t* starts,
                                   std::int32_t* counts, std::int32_t* offsets) {
  const int lane = static_cast<int>(threadIdx.x);
  std::int32_t before = 0;
  for (int first = 0; first < s.bins; first += kWarp) {
    const int b = first + lane;
    const std::int32_t mine = b < s.bins ? totals[b] : 0;
    std::int32_t sum = mine;
    for (int d = 1; d < kWarp; d *= 2) {
      const std::int32_t lower = shuffle_up(sum, d);
      if (lane >= d) sum += lower;
    }
    if (b < s.bins) {
      starts[b] = before + sum - mine;
      if (counts != nullptr) counts[b] = mine;
      if (offsets != nullptr) offsets[b] = before + sum - mine;
    }
    before += shuffle(sum, kWarp - 1);
  }
  if (lane == 0 && offsets != nullptr) offsets[s.bins] = before;
}

__global__ void sort_place_kernel(SortShape s, SortKey key, const std::int32_t* chunk_counts,
                                  const std::int32_t* starts, std::int32_t* place) {
  const int lane = static_cast<int>(threadIdx.x);
  auto* next = shared_memory<std::int32_t>();
  for (int b = lane; b < s.bins; b += kWarp)
    next[b] = starts[b] + chunk_counts[Index{blockIdx.x} * s.bins + b];
  sync_warp();
  const Index begin = blockIdx.x * kSortChunk;
  const Index end = begin + kSortChunk < s.n ? begin + kSortChunk : s.n;
  for (Index first = begin; first < end; first += kWarp) {
    const Index i = first + lane;
    const int bin = i < end ? key(i) : s.bins;
    const std::uint32_t same = match_any(static_cast<std::uint32_t>(bin));
    const int rank = count_bits(same & ((1u << lane) - 1));
    std::int32_t to = 0;
    if (i < end) to = next[bin] + rank;
    sync_warp();
    if (i < end) {
      place[i] = to;
      if (rank == 0) next[bin] += count_bits(same);
    }
    sync_warp();
  }
}

// sorted[place[i]] = order[i], or i where order is null
__global__ void apply_places_kernel(Index n, const std::int32_t* order, const std::int32_t* place,
                                    std::int32_t* sorted) {
  const Index i = first_item();
  if (i < n) sorted[place[i]] = order == nullptr ? static_cast<std::int32_t>(i) : order[i];
}

Grid strided(const Context& c, Index n, Index pack) {
  return {blocks_for(ceil_div(n, pack), kThreads, c.sm_count), kThreads};
}

}  // namespace

void stable_ranks(const Context& c, const SortShape& s, const SortKey& key, std::int32_t* room,
                  std::int32_t* place, std::int32_t* counts, std::int32_t* offsets) {
  check(s.bins <= kMostBins, "the counts of a sort fit shared memory");
  const Index chunks = ceil_div(s.n, kSortChunk);
  std::int32_t *totals = room + chunks * s.bins, *starts = totals + s.bins;
  const Grid warps{static_cast<unsigned>(chunks), kWarp,
                   static_cast<std::size_t>(s.bins) * sizeof(std::int32_t)};
  launch(c.stream, warps, sort_count_kernel, s, key, room);
  launch(c.stream, {static_cast<unsigned>(ceil_div(s.bins, 128)), 128}, sort_chunks_kernel, s,
         chunks, room, totals);
  launch(c.stream, {1, kWarp}, sort_starts_kernel, s, totals, starts, counts, offsets);
  launch(c.stream, warps, sort_place_kernel, s, key, room, starts, place);
}

void gather_rows(const Context& c, ConstView x, const std::int32_t* rows, Index n, Index width,
                 View out) {
  if (x.element == Element::Int32)
    return launch(c.stream, strided(c, n * width, 1), gather_ints_kernel, ints(x), rows, n, width,
                  ints(out));
  with_pack(in_vectors(width, {x.at, out.at}), [&](auto pack) {
    launch(c.stream, strided(c, n * width, pack()), gather_kernel<pack()>, x, rows, n, width, out);
  });
}

void combine_rows(const Context& c, ConstView x, const std::int32_t* row, const float* weight,
                  Index tokens, Index top_k, Index width, View out, bool accumulate) {
  const CombineShape s{tokens, top_k, width};
  with_pack(in_vectors(width, {x.at, out.at}), [&](auto pack) {
    launch(c.stream, strided(c, tokens * width, pack()), combine_kernel<pack()>, s, x, row, weight,
           out, accumulate);
  });
}

void combine_rows_backward(const Context& c, ConstView dout, ConstView x, const std::int32_t* row,
                           const float* weight, Index tokens, Index top_k, Index width, View dx,
                           float* dweight) {
  const CombineShape s{tokens, top_k, width};
  with_pack(in_vectors(width, {dout.at, x.at, dx.at}), [&](auto pack) {
    launch(c.stream, {static_cast<unsigned>(tokens * top_k), 128}, combine_backward_kernel<pack()>,
           s, dout, x, row, weight, dx, dweight);
  });
}

void token_ids(const Context& c, const std::int32_t* tokens, Index batch, Index stride,
               const std::int32_t* position, Index positions, Index shift, std::int32_t* ids) {
  launch(c.stream, strided(c, batch * positions, 1), token_ids_kernel, tokens, batch, stride,
         position, positions, shift, ids);
}

void embedding_forward(const Context& c, ConstView table, const std::int32_t* ids, Index n,
                       Index width, std::int32_t vocab_begin, std::int32_t vocab_end, View out) {
  with_pack(in_vectors(width, {table.at, out.at}), [&](auto pack) {
    launch(c.stream, strided(c, n * width, pack()), embedding_kernel<pack()>, table, ids, n, width,
           Vocabulary{vocab_begin, vocab_end}, out);
  });
}

void embedding_backward(const Context& c, ConstView dout, const std::int32_t* ids, Index n,
                        Index width, std::int32_t vocab_begin, std::int32_t vocab_end,
                        View dtable) {
  if (n == 0 || vocab_end <= vocab_begin) return;
  const Vocabulary v{vocab_begin, vocab_end};
  if (!c.deterministic && dtable.element == Element::Fp32)
    return launch(c.stream, strided(c, n * width, 1), embedding_atomic_kernel, dout, ids, n, width,
                  v, floats(dtable));

  constexpr int kDigit = 10;
  Carver sizes(nullptr);
  for (int i = 0; i < 3; ++i) sizes.take<std::int32_t>(n);
  sizes.take<unsigned char>(static_cast<Index>(sort_bytes(n, 1 << kDigit)));
  Carver carve(c.scratch(sizes.used()));
  auto* order = carve.take<std::int32_t>(n);
  auto* next = carve.take<std::int32_t>(n);
  auto* place = carve.take<std::int32_t>(n);
  auto* room = carve.take<std::int32_t>(static_cast<Index>(sort_bytes(n, 1 << kDigit)) / 4);

  // Ids of other slices are sorted behind the last one of this slice.
  const std::int32_t limit = vocab_end - vocab_begin;
  for (int shift = 0; shift < 31 && (limit >> shift) > 0; shift += kDigit) {
    const std::int32_t* old = shift == 0 ? nullptr : order;
    const SortKey key{ids, old, shift, (1 << kDigit) - 1, vocab_begin, limit};
    stable_ranks(c, {n, 1 << kDigit}, key, room, place, nullptr, nullptr);
    launch(c.stream, {static_cast<unsigned>(ceil_div(n, kThreads)), kThreads}, apply_places_kernel,
           n, old, place, next);
    std::swap(order, next);
  }
  with_pack(in_vectors(width, {dout.at, dtable.at}), [&](auto pack) {
    launch(c.stream, {static_cast<unsigned>(n), 128}, embedding_sum_kernel<pack()>, dout, ids,
           order, n, width, v, dtable);
  });
}

void loss_partial(const Context& c, ConstView logits, const std::int32_t* target, Index n,
                  Index slice, std::int32_t begin, float* partial) {
  with_pack(in_vectors(slice, {logits.at}), [&](auto pack) {
    launch(c.stream, {static_cast<unsigned>(n), kThreads}, loss_partial_kernel<pack()>, logits,
           target, slice, begin, partial);
  });
}

void loss_combine(const Context& c, const float* partials, const std::int32_t* target, Index ranks,
                  Index n, float* lse, double* loss) {
  if (n > 0)
    launch(c.stream, {1, 1024}, loss_combine_kernel, partials, target, ranks, n, lse, loss);
}

void loss_backward(const Context& c, View logits, const std::int32_t* target, const float* lse,
                   Index n, Index slice, std::int32_t begin, float scale) {
  with_pack(in_vectors(slice, {logits.at}), [&](auto pack) {
    launch(c.stream, {static_cast<unsigned>(n), kThreads}, loss_backward_kernel<pack()>, logits,
           target, lse, slice, begin, scale);
  });
}

}  // namespace reckon::real::cuda
