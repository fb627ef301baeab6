// Writes one sim::Block op by op, keeping track of what the next compute op must wait for.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "sim/check.h"
#include "sim/program.h"

namespace reckon::plan {

class BlockWriter {
 public:
  explicit BlockWriter(std::string name) { block_.name = std::move(name); }

  // Phase and recompute flag of the ops that follow.
  void enter(sim::Phase phase, bool recompute = false) {
    phase_ = phase;
    recompute_ = recompute;
  }
  bool recomputing() const { return recompute_; }
  // Part of the chunk (sim::Op::part) of the ops that follow.
  void part(int index) { part_ = static_cast<std::int16_t>(index); }

  // An op on the compute stream; waits for all ops named with after() since the last one.
  std::uint32_t compute(const char* label, const sim::Work& work) {
    const auto first = static_cast<std::uint32_t>(block_.waits.size());
    block_.waits.insert(block_.waits.end(), pending_.begin(), pending_.end());
    pending_.clear();
    before_last_compute_ = last_compute_;
    last_compute_ = append(label, work, sim::Stream::Compute, first);
    return last_compute_;
  }

  // An op on a communication stream; waits for the compute ops written so far.
  std::uint32_t communicate(const char* label, const sim::Work& work, sim::Stream stream) {
    return communicate_after(last_compute_, label, work, stream);
  }

  // The same, but waits for `op` only (or nothing).
  std::uint32_t communicate_after(std::uint32_t op, const char* label, const sim::Work& work,
                                  sim::Stream stream) {
    const auto first = static_cast<std::uint32_t>(block_.waits.size());
    if (op != kNoOp) block_.waits.push_back(op);
    return append(label, work, stream, first);
  }

  // A collective that the next compute op needs.
  void exchange(const char* label, const sim::Work& work, sim::Stream stream) {
    after(communicate(label, work, stream));
  }

  void after(std::uint32_t op) {
    if (op != kNoOp) pending_.push_back(op);
  }

  std::uint32_t last_compute() const { return last_compute_; }
  std::uint32_t before_last_compute() const { return before_last_compute_; }
  std::uint32_t last() const { return static_cast<std::uint32_t>(block_.ops.size()) - 1; }
  bool empty() const { return block_.ops.empty(); }
  std::shared_ptr<const sim::Block> finish() {
    check(!block_.ops.empty(), "a block has an op");
    // A search keeps very many blocks.
    block_.ops.shrink_to_fit(), block_.waits.shrink_to_fit(), block_.works.shrink_to_fit();
    return std::make_shared<const sim::Block>(std::move(block_));
  }

  static constexpr std::uint32_t kNoOp = ~0u;

 private:
  std::uint32_t append(const char* label, const sim::Work& work, sim::Stream stream,
                       std::uint32_t first_wait) {
    const auto index = static_cast<std::uint32_t>(block_.ops.size());
    block_.ops.push_back({.label = label,
                          .work = intern(work),
                          .stream = stream,
                          .phase = phase_,
                          .recompute = recompute_,
                          .part = part_,
                          .first_wait = first_wait,
                          .waits = static_cast<std::uint32_t>(block_.waits.size()) - first_wait});
    return index;
  }

  // The layers of a chunk repeat each other: equal works are kept once.
  std::uint32_t intern(const sim::Work& work) {
    if (2 * block_.works.size() >= places_.size()) {
      places_.assign(std::max<std::size_t>(128, 2 * places_.size()), kNoOp);
      for (std::uint32_t i = 0; i < block_.works.size(); ++i) place(block_.works[i]) = i;
    }
    std::uint32_t& at = place(work);
    if (at == kNoOp) {
      at = static_cast<std::uint32_t>(block_.works.size());
      block_.works.push_back(work);
    }
    return at;
  }
  // Open addressing over a power of two of places.
  std::uint32_t& place(const sim::Work& work) {
    std::size_t i = sim::hash(work) & (places_.size() - 1);
    while (places_[i] != kNoOp && block_.works[places_[i]] != work)
      i = (i + 1) & (places_.size() - 1);
    return places_[i];
  }

  sim::Block block_;
  sim::Phase phase_ = sim::Phase::F;
  bool recompute_ = false;
  std::int16_t part_ = -1;
  std::uint32_t last_compute_ = kNoOp, before_last_compute_ = kNoOp;
  std::vector<std::uint32_t> pending_;
  std::vector<std::uint32_t> places_;  // hash table of block_.works, by index
};

}  // namespace reckon::plan
