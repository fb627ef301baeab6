// From what `reckon calibrate` has measured to the tables that costs are read from, and how far
// those are from measurements that did not make them.
#pragma once

#include <string>
#include <vector>

#include "hw-models/measured.h"
#include "real/calibrate.h"

namespace reckon::plan {

// All that was measured with one number of ranks at work.
struct Measurements {
  int ranks = 1;
  real::CalibrationAxes axes;
  std::vector<real::Sample> products, attention, others, exchanges;
  double exchanges_reference = 0;  // real::reference_seconds() beside them; 0: not measured
  real::StepSamples steps;
};

// `recompute`: of plans that repeat the forward pass of every layer.
hw::MeasuredLevel measured_level(const Measurements& m, bool recompute);

// One line of the report: a family of ops, predicted by tables that these samples are not in.
struct TableError {
  std::string what;
  int samples = 0;
  double median = 0, p90 = 0;  // |predicted / measured - 1|
  double total = 0;            // sum of predicted over sum of measured, - 1
};
std::vector<TableError> table_errors(const Measurements& m);

}  // namespace reckon::plan
