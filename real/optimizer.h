// What happens to gradients and weights beside the passes: data-parallel sums and gathers of whole
// buffers, and the optimizer step on the shards that this rank owns (ZeRO-1, Rajbhandari et al.
// 2020).
#pragma once

#include <memory>
#include <stdexcept>
#include <vector>

#include "real/checkpoint.h"
#include "real/ops.h"
#include "sim/program.h"

namespace reckon::real {

// [begin, end) of a flat buffer.
struct Range {
  std::int64_t begin = 0, end = 0;
};

// A loss or a gradient that is not a finite number; the weights are as they were, or not to be
// saved.
struct Diverged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Optimizer {
 public:
  Optimizer(const Setting& setting, Weights& weights, Groups& groups, const sim::Role& role,
            Meter& meter, Device& device);

  // One collective beside the slots, as its label says. On the data thread.
  void sync(const sim::Sync& sync);

  // The ops of the tail block, by label. `step` counts from 1.
  void run(const char* label, std::int64_t step);

  double gradient_norm() const { return norm_; }

  // States as pieces of whole-model tensors: weights, "adam.m/...", "adam.v/...", router biases.
  // The host waits for a device, and takes memory for what is there.
  std::vector<SavedPiece> saved() const;
  void load(const Checkpoint& checkpoint);

 private:
  // Part of a shard that belongs to one parameter.
  struct Segment {
    const Param* param = nullptr;
    Range range;             // in the flat buffer
    std::int64_t state = 0;  // where its states start in the shard's
    bool counted = true;     // this rank adds it to the gradient norm, and saves it
  };
  struct Shard {
    ChunkWeights* chunk = nullptr;
    bool expert = false;
    TensorGroup* group = nullptr;
    std::uint32_t buckets = 1;
    bool sharded = false;
    std::vector<Segment> segments;
    Tensor m, v, master;  // of the owned elements, in order; master only of 16-bit weights

    Flat& flat() const { return expert ? chunk->experts : chunk->dense; }
    // What `member` owns of bucket `bucket`.
    Range owned(std::uint32_t bucket, int member) const;
    Range bucket(std::uint32_t index) const;
  };

  Shard& shard(int chunk, bool expert);
  void reduce(Queue& q, Shard& s);
  void gather(Queue& q, Shard& s);
  void sum_replicated(Queue& q, ChunkWeights& c);
  void narrow(const std::vector<float>& from, View to) const;
  void read(const Checkpoint& from, const Piece& piece, View to) const;
  void norm();
  void sum_norm();
  void update(std::int64_t step);
  void clear();
  void move_router_biases();

  Setting setting_;
  Weights& weights_;
  Groups& groups_;
  Meter& meter_;
  Device& device_;
  bool masters_;  // weights are not fp32: the optimizer keeps fp32 copies
  std::vector<Shard> shards_;
  bool gathered_dense_ = false;  // in this tail
  Standing<double> square_;      // one number, the sum over the rank's gradients
  double norm_ = 0;
};

}  // namespace reckon::real
