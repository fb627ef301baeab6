// Measures this machine with the trainer's own kernels, groups and steps, as ops of a Program: a
// list of works and what they took. Knows no model of them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hw-models/stack.h"
#include "real/devices.h"
#include "real/trainer.h"
#include "sim/work.h"

namespace reckon::real {

// `seconds`: mean over the ranks of the median over repetitions.
struct Sample {
  sim::Work work;
  double seconds = 0;
};

struct CalibrationOptions {
  int ranks = 1;       // at work at once, each measuring the same
  bool quick = false;  // fewer and smaller sizes
  DeviceChoice device;
  // Called before each group of measurements. `done` of `all`.
  std::function<void(int done, int all)> progress;
};

// The axes of the tables.
struct CalibrationAxes {
  std::vector<std::int64_t> m, n, k;     // of dense products
  std::vector<std::int64_t> seq, width;  // of attention; width: of query and value together
  std::vector<std::int64_t> bytes;       // of messages
  std::vector<sim::DType> dtypes;        // of products
  double largest_product = 0;            // m n k: some milliseconds
  std::int64_t heads = 0;                // of attention
};
CalibrationAxes calibration_axes(const CalibrationOptions& options);

// Every point of the axes whose work is below a second on any machine; passes in order.
std::vector<Sample> measure_products(const CalibrationOptions& options);
std::vector<Sample> measure_attention(const CalibrationOptions& options);
// Sizes that are no points of the axes, to judge the tables with.
std::vector<Sample> measure_other_shapes(const CalibrationOptions& options);
// Collectives among the ranks, and messages between two of them. Empty for one rank.
std::vector<Sample> measure_exchanges(const CalibrationOptions& options);

// A virtual machine's clock and its share of the host's memory wander by some per cent within
// minutes. A fixed piece of work beside what is measured tells by how much: a step of a small
// model, each rank's its own.
class Reference {
 public:
  explicit Reference(Trainer& trainer) : trainer_(trainer) {}
  // Two steps, of which the second counts: the first finds the caches full of other things.
  void run();
  double seconds() const;  // median so far

 private:
  Trainer& trainer_;
  std::vector<double> seconds_;
};
// `measure` on this rank, which shall run the reference at the times when the other ranks do.
void beside_reference(const DeviceChoice& device, Transport& transport,
                      const std::function<void(Reference& reference)>& measure);
// What the reference takes now, mean over the ranks; looks for so long.
double reference_seconds(const CalibrationOptions& options, double look);

// Every compute op of training steps of small models on `ranks` data-parallel ranks, brought to one
// speed of the machine by the reference, which runs behind each step.
struct StepSamples {
  double reference = 0;  // what it takes at that speed
  struct Regime {
    std::vector<std::vector<Sample>> models;  // per model, every op of every step and rank
    double gap = 0;                           // seconds between two ops of a block
    double per_step = 0;  // seconds of a step outside its blocks and its optimizer
  };
  Regime usual, recomputing;  // the latter: every layer's forward pass repeated
  // Collectives inside passes, of context-parallel ranks: what they took, and how long the rank had
  // been away from the others.
  struct Meeting {
    sim::Work work;
    double seconds = 0, since = 0;
  };
  std::vector<Meeting> meetings;
};
StepSamples measure_steps(const CalibrationOptions& options);

// The value in the middle of repeated measurements (the upper of two); 0 of none.
double median(std::vector<double> x);

}  // namespace reckon::real
