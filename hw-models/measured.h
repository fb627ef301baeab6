// A device as `reckon calibrate` found it: tables of times that stand in for the fitted equations.
// Between its points a table is read on log-log scale, beyond them at the rate of its last points.
//
// Every table was taken with `active` ranks at work at once, because ranks of one machine share its
// memory and its clock. Not in the tables: ops that run beside a rank's own communication (the
// engines share the device between them).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hw-models/json_fields.h"
#include "sim/op_cost.h"
#include "sim/work.h"

namespace reckon::hw {

// Seconds over bytes.
struct MeasuredCurve {
  std::vector<double> bytes, seconds;
};

// Seconds of one dense product, at every m x n x k of the axes, k running fastest. m, n, k as in
// sim::MatMul.
struct MeasuredProduct {
  sim::Pass pass = sim::Pass::Forward;
  sim::DType dtype = sim::DType::Fp32;
  std::vector<double> m, n, k, seconds;
  Seconds per_call;     // and once per product,
  double per_byte = 0;  // and seconds per byte of its operands, which a step finds colder
};

// Seconds per visible (query, key) pair and head of one attention, at every seq x width of the
// axes, width running fastest. width: of query and value together.
struct MeasuredAttention {
  bool backward = false;
  std::vector<double> seq, width, seconds;
  Seconds per_call;  // and once per op
};

struct MeasuredMemory {
  sim::MemoryKind kind = sim::MemoryKind::Elementwise;
  int kernels = 1;  // sim::MemoryBound::kernels: tells ops of one kind apart
  MeasuredCurve curve;
};

struct MeasuredCollective {
  sim::CollectiveKind kind = sim::CollectiveKind::AllReduce;
  int ranks = 2;
  MeasuredCurve curve;  // bytes as in sim::Collective
};

struct MeasuredLevel {
  int active = 1;    // ranks at work at once
  Seconds gap;       // between two ops of a stream
  Seconds per_step;  // of a training step, beside its ops
  // Of steps that repeat the forward pass of every layer: one layer's activations are alive at a
  // time, in memory that the caches hold.
  bool recompute = false;
  Seconds reference;  // what a fixed piece of work (`real::reference_seconds`) took beside all
                      // this; 0: not measured
  double drift = 0;   // sim::OpCost::drift of collectives
  std::vector<MeasuredProduct> products;
  std::vector<MeasuredAttention> attention;
  std::vector<MeasuredMemory> memory;
  std::vector<MeasuredCollective> collectives;
  std::optional<MeasuredCurve> transfer;
};

struct MeasuredDevice {
  std::string machine, date, command;  // provenance
  std::vector<MeasuredLevel> levels;   // by `active`, ascending; `recompute` behind the other

  // The level of so many ranks at work; of fewer where it was not measured.
  const MeasuredLevel& level(int ranks) const;
};

// The levels for plans that recompute every layer, or for the others; those where there are none.
MeasuredDevice levels_for(const MeasuredDevice& device, bool recompute);

// Throws InputError if the file is not of this form.
MeasuredDevice read_measured(const std::string& file);
ordered_json to_json(const MeasuredDevice& device);

// What an op costs there; nothing where the tables have no such op.
std::optional<sim::OpCost> measured_cost(const MeasuredLevel& level, const sim::Work& work);

// Of fp32 operands: both inputs and the result; a weight gradient's result is read and written.
double operand_bytes(const sim::MatMul& op);

double read_curve(const MeasuredCurve& curve, double bytes);

}  // namespace reckon::hw
