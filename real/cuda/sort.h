// A stable counting sort of keys in [0, bins): where each item goes. Chunks of items are counted
// apart, the counts are summed bin by bin and chunk by chunk, and each chunk then gives out places
// in order. Within a chunk one warp takes 32 items at a time: those with the same key are ordered
// by lane. Several passes over the digits of larger keys make a radix sort.
#pragma once

#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda {

constexpr Index kSortChunk = 1024;  // items of a warp
constexpr int kMostBins = 4096;     // counts of a chunk lie in shared memory

struct SortShape {
  Index n;
  int bins;
};

// The key of item i: digit `shift` on of value[order[i]], or of value[i] where order is null;
// values outside [0, limit) count as limit (limit 0: no limit).
struct SortKey {
  const std::int32_t* value;
  const std::int32_t* order = nullptr;
  int shift = 0;
  std::int32_t mask = -1, offset = 0, limit = 0;

  RECKON_DEVICE int operator()(Index i) const {
    std::int32_t v = value[order == nullptr ? i : order[i]] - offset;
    if (limit > 0 && (v < 0 || v >= limit)) v = limit;
    return (v >> shift) & mask;
  }
};

inline std::size_t sort_bytes(Index n, Index bins) {
  return static_cast<std::size_t>((ceil_div(n, kSortChunk) + 2) * (bins + 1)) *
         sizeof(std::int32_t);
}

// Places of all items; room is sort_bytes(n, bins) of device memory. counts[bins] and
// offsets[bins + 1] may be null.
void stable_ranks(const Context& c, const SortShape& s, const SortKey& key, std::int32_t* room,
                  std::int32_t* place, std::int32_t* counts, std::int32_t* offsets);

}  // namespace reckon::real::cuda
