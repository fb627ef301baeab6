// The parameters of a rank: one table per pipeline chunk. Allocation, initialisation, optimizer,
// checkpoint and the test of the memory formula all read it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/model.h"
#include "planner/plan.h"
#include "real/checkpoint.h"
#include "real/place.h"

namespace reckon::real {

enum class Start : std::uint8_t { Normal, Ones, Zeros };

struct Param {
  std::string name;                  // of the whole model, e.g. "layers.3.mlp.up"
  std::vector<std::int64_t> shape;   // of the whole tensor, [out, in] of a linear map
  std::vector<std::int64_t> begin;   // this rank's box of it
  std::vector<std::int64_t> extent;  //
  Start start = Start::Normal;
  bool expert = false;      // lives in the chunk's expert buffer, not the dense one
  bool replicated = false;  // tensor-parallel ranks hold it whole and use it on their own tokens
  std::int64_t offset = 0;  // in that buffer

  std::int64_t count() const;
  bool decays() const { return start == Start::Normal; }  // weight decay: matrices only
  Piece piece(const std::string& prefix, std::int64_t first, std::int64_t n) const;
};

// Parts of a chunk are numbered as sim::Op::part: layers from 0, then MTP modules; -1 the ends.
struct ParamTable {
  std::vector<Param> params;  // in buffer order; linear maps that one product computes are adjacent
  std::int64_t dense = 0, experts = 0;  // elements of the two buffers

  const Param& at(const std::string& name) const;
  bool has(const std::string& name) const;
};

// "layers.7." of a layer of the model, "mtp.0." of an MTP module.
std::string part_prefix(const plan::ModelShape& model, const plan::ChunkLayout& chunk, int part);

// Whether a chunk holds the embedding's table: to look tokens up, or as a tied head.
bool uses_embedding(const plan::ModelShape& model, const plan::ChunkLayout& chunk);

// `embedding`: this chunk keeps the rank's copy of the embedding.
ParamTable param_table(const plan::ModelShape& model, const plan::Plan& plan, const Place& place,
                       const plan::ChunkLayout& chunk, bool embedding);

// Starting values of `n` elements of the box from `first` on: the same for an element of the whole
// tensor wherever it lives.
void initialise(const Param& param, std::uint64_t seed, double std, float* out);

}  // namespace reckon::real
