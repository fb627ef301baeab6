// The router of a mixture of experts, and where copies of tokens go.
//
// A warp per token. Choices are made one by one, each the largest biased score that is left, ties
// to the lower expert, which gives the order and the ties of real/kernels_router.cc. Sorting copies
// by expert is one pass of a stable counting sort (sort.h). Counts are sums of integers, so that
// their order does not matter.
#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"
#include "real/cuda/sort.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

constexpr float kTaken = -kInfinity;
constexpr float kLowest = -3.402823466e38f;  // of fp32
constexpr float kTiny = 1e-20f;              // as in real/kernels_router.cc
constexpr unsigned kTokens = 4;              // warps, and so tokens, of a block

struct Best {
  float value;
  int at;
};

// The largest of x[n], which a warp looks through; the lowest index of equal ones.
__device__ Best largest(const float* x, int n, int lane) {
  Best best{kTaken, n};
  for (int i = lane; i < n; i += kWarp)
    if (best.at == n || x[i] > best.value) best = {x[i], i};
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const Best other{shuffle_xor(best.value, d), shuffle_xor(best.at, d)};
    if (other.value > best.value || (other.value == best.value && other.at < best.at)) best = other;
  }
  return best;
}

// Drops the experts of all but the best groups. rank[groups] is room.
__device__ void keep_best_groups(const RouterShape& s, float* biased, float* rank, int lane) {
  const int groups = static_cast<int>(s.groups), size = static_cast<int>(s.experts) / groups;
  for (int g = lane; g < groups; g += kWarp) {
    float first = kLowest, second = kLowest;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const float x = biased[e], smaller = first < x ? first : x;
      second = smaller > second ? smaller : second;
      first = x > first ? x : first;
    }
    rank[g] = s.sigmoid && size > 1 ? first / 2 + second / 2 : first;
  }
  sync_warp();
  for (Index i = 0; i < s.limited_groups; ++i) {
    const Best best = largest(rank, groups, lane);
    if (lane == 0) rank[best.at] = kTaken;
    sync_warp();
  }
  for (int e = lane; e < static_cast<int>(s.experts); e += kWarp)
    if (rank[e / size] != kTaken) biased[e] = kTaken;
  sync_warp();
}

__global__ void router_kernel(RouterShape s, ConstView logits, const float* bias, float* scores,
                              std::int32_t* chosen, float* weights) {
  const int lane = static_cast<int>(threadIdx.x), experts = static_cast<int>(s.experts);
  const Index t = Index{blockIdx.x} * blockDim.y + threadIdx.y;
  if (t >= s.tokens) return;  // the whole warp
  float* biased = shared_memory<float>() + threadIdx.y * (s.experts + s.groups);
  float* score = scores + t * s.experts;

  float maximum = kTaken, sum = 0;
  for (int e = lane; e < experts; e += kWarp) {
    const float x = load(logits, t * s.experts + e);
    biased[e] = s.sigmoid ? 1.0f / (1.0f + expf(-x)) : x;
    maximum = x > maximum ? x : maximum;
  }
  if (!s.sigmoid) {
    maximum = warp_max(maximum);
    for (int e = lane; e < experts; e += kWarp) {
      biased[e] = expf(biased[e] - maximum);
      sum += biased[e];
    }
    sum = warp_sum(sum);
  }
  for (int e = lane; e < experts; e += kWarp) {
    const float value = s.sigmoid ? biased[e] : biased[e] / sum;
    score[e] = value;
    const float with_bias = bias == nullptr ? value : value + bias[e];
    biased[e] = with_bias > kLowest ? with_bias : kLowest;  // NaN too: a choice must exist
  }
  sync_warp();
  if (s.limited_groups < s.groups) keep_best_groups(s, biased, biased + experts, lane);

  float chosen_sum = kTiny;
  for (Index j = 0; j < s.top_k; ++j) {
    const Best best = largest(biased, experts, lane);
    const float value = score[best.at];  // written by this warp, before sync_warp
    chosen_sum += value;
    if (lane == 0) {
      biased[best.at] = kTaken;
      chosen[t * s.top_k + j] = best.at;
      weights[t * s.top_k + j] = value;
    }
    sync_warp();
  }
  const float factor = s.normalise ? s.scale / chosen_sum : s.scale;
  for (Index j = lane; j < s.top_k; j += kWarp) weights[t * s.top_k + j] *= factor;
}

// As router_backward of real/kernels_router.cc, which has the equations.
__global__ void router_backward_kernel(RouterShape s, const float* scores,
                                       const std::int32_t* chosen, const float* weights,
                                       const float* dweights, const float* dp, View dlogits) {
  const int lane = static_cast<int>(threadIdx.x), experts = static_cast<int>(s.experts);
  const Index t = Index{blockIdx.x} * blockDim.y + threadIdx.y;
  if (t >= s.tokens) return;
  float* ds = shared_memory<float>() + threadIdx.y * s.experts;
  const float* score = scores + t * s.experts;
  const std::int32_t* choice = chosen + t * s.top_k;
  const float *w = weights + t * s.top_k, *dw = dweights + t * s.top_k;

  float total = 1, mean = 0;
  if (dp != nullptr && s.sigmoid) {
    total = 0;
    for (int e = lane; e < experts; e += kWarp) {
      total += score[e];
      mean += dp[t * s.experts + e] * score[e];
    }
    total = warp_sum(total) + kTiny;
    mean = warp_sum(mean) / total;
  }
  for (int e = lane; e < experts; e += kWarp)
    ds[e] = dp == nullptr ? 0.0f : (dp[t * s.experts + e] - mean) / total;
  sync_warp();

  float sum = 1, through_sum = 0;
  if (s.normalise) {
    sum = 0;
    for (Index j = lane; j < s.top_k; j += kWarp) {
      sum += score[choice[j]];
      through_sum += dw[j] * w[j];
    }
    sum = warp_sum(sum) + kTiny;
    through_sum = warp_sum(through_sum);
  }
  for (Index j = lane; j < s.top_k; j += kWarp)
    ds[choice[j]] += (s.scale * dw[j] - through_sum) / sum;
  sync_warp();

  float through = 0;
  if (!s.sigmoid) {
    for (int e = lane; e < experts; e += kWarp) through += ds[e] * score[e];
    through = warp_sum(through);
  }
  for (int e = lane; e < experts; e += kWarp)
    store(dlogits, t * s.experts + e,
          s.sigmoid ? ds[e] * score[e] * (1 - score[e]) : score[e] * (ds[e] - through));
}

// A warp per token: 1 / the sum of its scores.
__global__ void inverse_sums_kernel(const float* scores, Index tokens, Index experts, float* out) {
  const Index t = Index{blockIdx.x} * blockDim.y + threadIdx.y;
  if (t >= tokens) return;
  float sum = 0;
  for (Index e = threadIdx.x; e < experts; e += kWarp) sum += scores[t * experts + e];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) out[t] = 1 / sum;
}

constexpr Index kParts = 16;  // of a sequence, each summed by a block

// Tokens of this rank that belong to a sequence, [begin, end), cut into kParts.
__device__ void part_of(const BalanceShape& s, Index sequence, Index part, Index* begin,
                        Index* end) {
  Index first = sequence * s.sequence_tokens - s.first_token, last = first + s.sequence_tokens;
  first = first > 0 ? first : 0;
  last = last < s.tokens ? last : s.tokens;
  const Index n = last > first ? last - first : 0;
  *begin = first + n * part / kParts;
  *end = first + n * (part + 1) / kParts;
}

// partial[sequence, part, 2, experts]; a thread per expert.
__global__ void balance_kernel(BalanceShape s, const float* scores, const std::int32_t* chosen,
                               const float* inverse, float* partial) {
  auto* counts = shared_memory<int>();
  for (Index e = threadIdx.x; e < s.experts; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  Index begin, end;
  part_of(s, blockIdx.x, blockIdx.y, &begin, &end);
  for (Index i = begin * s.top_k + threadIdx.x; i < end * s.top_k; i += blockDim.x)
    atomicAdd(&counts[chosen[i]], 1);
  __syncthreads();
  float* out = partial + (Index{blockIdx.x} * kParts + blockIdx.y) * 2 * s.experts;
  for (Index e = threadIdx.x; e < s.experts; e += blockDim.x) {
    float sum = 0;
    for (Index t = begin; t < end; ++t) sum += scores[t * s.experts + e] * inverse[t];
    out[e] = static_cast<float>(counts[e]);
    out[s.experts + e] = sum;
  }
}

__global__ void balance_finish_kernel(BalanceShape s, const float* partial, float* balance) {
  const Index n = 2 * s.experts;
  for (Index i = threadIdx.x; i < n; i += blockDim.x) {
    float sum = 0;
    for (Index part = 0; part < kParts; ++part)
      sum += partial[(blockIdx.x * kParts + part) * n + i];
    balance[blockIdx.x * n + i] = sum;
  }
}

__global__ void balance_gradient_kernel(BalanceShape s, const float* balance, float factor,
                                        float* dp) {
  const Index n = s.tokens * s.experts, step = Index{gridDim.x} * blockDim.x;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const Index sequence = (s.first_token + i / s.experts) / s.sequence_tokens;
    dp[i] = factor * balance[sequence * 2 * s.experts + i % s.experts];
  }
}

// Counts of a block go to memory in whole numbers: fp32 adds them exactly, in any order.
__global__ void count_kernel(const std::int32_t* chosen, Index n, Index experts, float* load) {
  auto* counts = shared_memory<int>();
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  const Index step = Index{gridDim.x} * blockDim.x;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step)
    atomicAdd(&counts[chosen[i]], 1);
  __syncthreads();
  for (Index e = threadIdx.x; e < experts; e += blockDim.x)
    if (counts[e] > 0) atomicAdd(&load[e], static_cast<float>(counts[e]));
}

__global__ void move_bias_kernel(float* loads, float* bias, Index experts, float speed) {
  __shared__ double room[kWarp];
  double sum = 0;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) sum += static_cast<double>(loads[e]);
  const double mean = block_sum(sum, room) / static_cast<double>(experts);
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) {
    const double over = static_cast<double>(loads[e]) - mean;
    if (speed != 0 && over != 0) bias[e] += over > 0 ? -speed : speed;
    loads[e] = 0;
  }
}

__global__ void finish_sort_kernel(Index copies, Index top_k, const std::int32_t* copy_of,
                                   const float* weight, Sorted out) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= copies) return;
  const std::int32_t to = copy_of[i];
  out.token_of[to] = static_cast<std::int32_t>(i / top_k);
  if (weight != nullptr) out.sent_weight[to] = weight[i];
}

// Rows of (member, expert) runs in both orders. One block; a thread per run at a time.
__global__ void regroup_kernel(const std::int32_t* counts, int members, int experts, Index rows,
                               std::int32_t* by_expert, std::int32_t* by_member,
                               std::int32_t* offsets) {
  const int runs = members * experts;
  auto* start = shared_memory<std::int32_t>();  // in order of members, [runs]
  std::int32_t* place = start + runs;           // in order of experts, by the same index
  std::int32_t* total = place + runs;
  if (threadIdx.x == 0) {
    std::int32_t at = 0;
    for (int r = 0; r < runs; ++r) {
      start[r] = at;
      at += counts[r];
    }
    *total = at;
    at = 0;
    for (int e = 0; e < experts; ++e) {
      offsets[e] = at;
      for (int m = 0; m < members; ++m) {
        place[m * experts + e] = at;
        at += counts[m * experts + e];
      }
    }
    offsets[experts] = at;
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int r = warp; r < runs; r += static_cast<int>(blockDim.x) / kWarp)
    for (std::int32_t i = lane; i < counts[r]; i += kWarp) {
      by_expert[place[r] + i] = start[r] + i;
      by_member[start[r] + i] = place[r] + i;
    }
  for (Index i = *total + threadIdx.x; i < rows; i += blockDim.x) by_expert[i] = by_member[i] = 0;
}

Grid warp_per_token(Index tokens, Index floats_of_warp) {
  return {static_cast<unsigned>(ceil_div(tokens, kTokens)), dim3(kWarp, kTokens),
          static_cast<std::size_t>(floats_of_warp) * kTokens * sizeof(float)};
}

}  // namespace

void router_forward(const Context& c, const RouterShape& s, ConstView logits, const float* bias,
                    float* scores, std::int32_t* chosen, float* weights) {
  check(s.experts % s.groups == 0, "groups of experts are equal");
  check(s.limited_groups >= 1 && s.limited_groups <= s.groups, "a token goes to 1 to all groups");
  check(s.top_k >= 1, "a token goes to one expert at least");
  check(s.top_k <= s.experts / s.groups * s.limited_groups, "the groups hold enough experts");
  launch(c.stream, warp_per_token(s.tokens, s.experts + s.groups), router_kernel, s, logits, bias,
         scores, chosen, weights);
}

void router_backward(const Context& c, const RouterShape& s, const float* scores,
                     const std::int32_t* chosen, const float* weights, const float* dweights,
                     const float* dp, View dlogits) {
  launch(c.stream, warp_per_token(s.tokens, s.experts), router_backward_kernel, s, scores, chosen,
         weights, dweights, dp, dlogits);
}

void balance_sums(const Context& c, const BalanceShape& s, const float* scores,
                  const std::int32_t* chosen, float* balance) {
  Carver sizes(nullptr);
  sizes.take<float>(s.tokens);
  sizes.take<float>(s.sequences * kParts * 2 * s.experts);
  Carver carve(c.scratch(sizes.used()));
  auto* inverse = carve.take<float>(s.tokens);
  auto* partial = carve.take<float>(s.sequences * kParts * 2 * s.experts);
  launch(c.stream, warp_per_token(s.tokens, 0), inverse_sums_kernel, scores, s.tokens, s.experts,
         inverse);
  const auto sequences = static_cast<unsigned>(s.sequences);
  launch(c.stream,
         {dim3(sequences, kParts), 256, static_cast<std::size_t>(s.experts) * sizeof(int)},
         balance_kernel, s, scores, chosen, inverse, partial);
  launch(c.stream, {sequences, 256}, balance_finish_kernel, s, partial, balance);
}

void balance_gradient(const Context& c, const BalanceShape& s, const float* balance, float factor,
                      float* dp) {
  launch(c.stream, {blocks_for(s.tokens * s.experts, 256, c.sm_count), 256},
         balance_gradient_kernel, s, balance, factor, dp);
}

void count_chosen(const Context& c, const std::int32_t* chosen, Index n, Index experts,
                  float* load) {
  launch(c.stream,
         {blocks_for(n, 4096, c.sm_count), 256, static_cast<std::size_t>(experts) * sizeof(int)},
         count_kernel, chosen, n, experts, load);
}

void move_router_bias(const Context& c, float* load, float* bias, Index experts, float speed) {
  launch(c.stream, {1, 256}, move_bias_kernel, load, bias, experts, speed);
}

void sort_by_expert(const Context& c, const std::int32_t* chosen, Index tokens, Index top_k,
                    Index experts, const float* weight, const Sorted& out) {
  const Index copies = tokens * top_k;
  auto* room = static_cast<std::int32_t*>(c.scratch(sort_bytes(copies, experts)));
  stable_ranks(c, {copies, static_cast<int>(experts)}, {chosen}, room, out.copy_of, out.counts,
               out.offsets);
  launch(c.stream, {static_cast<unsigned>(ceil_div(copies, 256)), 256}, finish_sort_kernel, copies,
         top_k, out.copy_of, weight, out);
}

void regroup(const Context& c, const std::int32_t* counts, Index members, Index experts, Index rows,
             std::int32_t* by_expert, std::int32_t* by_member, std::int32_t* offsets) {
  launch(c.stream,
         {1, 1024, static_cast<std::size_t>(2 * members * experts + 1) * sizeof(std::int32_t)},
         regroup_kernel, counts, static_cast<int>(members), static_cast<int>(experts), rows,
         by_expert, by_member, offsets);
}

}  // namespace reckon::real::cuda
