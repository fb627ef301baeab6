// Collectives among a fixed set of ranks. The CPU version is written over a Transport: sums run in
// rank order whatever the timing, so results are the same bits on every rank, every run and every
// transport. NCCL is the other version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "real/transport.h"

namespace reckon::real {

// REQUIRES: all members make the same calls in the same order. Calls block until this rank's part
// is done; groups are independent of each other and may be used from different threads, one thread
// at a time per group. Buffers of floats; counts in elements.
class Group {
 public:
  virtual ~Group() = default;
  virtual int index() const = 0;  // of this rank in the group
  virtual int size() const = 0;

  // values[n] := sum over members.
  virtual void all_reduce(float* values, std::size_t n) = 0;
  virtual void all_reduce(double* values, std::size_t n) = 0;
  virtual void all_reduce_max(float* values, std::size_t n) = 0;
  // in[size * n] -> out[n]: the sum over members of part `index`. In and out may not overlap.
  virtual void reduce_scatter(const float* in, float* out, std::size_t n) = 0;
  // in[n] -> out[size * n] in member order. `in` may be out + index * n.
  virtual void all_gather(const float* in, float* out, std::size_t n) = 0;
  // Parts of unequal length: part i of the buffer has counts[i] elements, the same on every member.
  // `out` of the reduction may be this member's part of `in`.
  virtual void reduce_scatter_parts(const float* in, float* out,
                                    const std::vector<std::size_t>& counts) = 0;
  virtual void all_gather_parts(const float* in, float* out,
                                const std::vector<std::size_t>& counts) = 0;
  // send_counts[i] elements to member i, in order; receives receive_counts[i] from member i, in
  // order. Counts in elements.
  virtual void all_to_all(const float* in, const std::vector<std::size_t>& send_counts, float* out,
                          const std::vector<std::size_t>& receive_counts) = 0;
  // One number for each member.
  virtual void all_to_all_counts(const std::vector<std::int32_t>& in, std::size_t per_member,
                                 std::vector<std::int32_t>& out) = 0;
  virtual void broadcast(float* values, std::size_t n, int root) = 0;
  virtual void barrier() = 0;
};

// `members`: ranks of the transport in ascending order, this one among them. `id`: the same on all
// members and different from the ids of other groups that share two members (at most 2^12 ids).
// A group of one copies.
std::unique_ptr<Group> make_group(Transport& transport, std::vector<int> members, std::uint32_t id);

}  // namespace reckon::real
