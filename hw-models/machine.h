// The hardware as data: one GPU type, its node, the fabric between nodes. Read from catalog/*.json.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "hw-models/topology_shape.h"
#include "sim/units.h"
#include "sim/work.h"

namespace reckon::hw {

// Nameplate figures of one device. What it reaches is in the fitted tables, by kernel kind (see
// fitted.h).
struct Gpu {
  std::string name;  // catalogue name, e.g. "H800"
  std::string
      architecture;  // "ampere", "hopper", "blackwell", "cpu": picks the fitted kernel constants
  int sms = 0;
  Bytes memory;                // usable by programs
  BytesPerSecond memory_rate;  // nameplate
  Bytes l2;
  // Dense matrix peaks, without sparsity; 0: the device lacks the type.
  FlopsPerSecond peak_fp32, peak_tf32, peak_bf16, peak_fp8, peak_fp4;
  double power_w = 0;
  // Rate of matrix products through a training step over that of the fitted tables, which are timed
  // alone: the board's power limit lowers its clock under load. Tables taken in training have it in
  // them.
  double sustained_matmul = 1;
};

struct MeasuredDevice;  // measured.h

// Rates are per GPU and per direction, as printed on the box; the fitted tables hold what
// collectives reach.
struct Node {
  int gpus = 8;            // that share one NVLink domain
  BytesPerSecond nvlink;   // 0: none, GPUs talk over PCIe
  BytesPerSecond pcie;     // host link
  Seconds nvlink_latency;  // of one hop, as seen by a collective step
};

struct Fabric {
  BytesPerSecond nic;                     // per GPU
  Seconds latency;                        // of one message, end to end
  double oversubscription = 1;            // of the layers above the leaf; 1: full bisection
  std::optional<TopologyShape> topology;  // nothing: not known; only `reckon topology` needs it
};

struct Cluster {
  std::string name;
  Gpu gpu;
  Node node;
  Fabric fabric;
  int gpus = 0;
  double price_per_gpu_hour = 0;  // in `currency`; 0: not given
  std::string currency = "USD";
  // Tables of `reckon calibrate` that stand in for the fitted equations; null: none.
  std::shared_ptr<const MeasuredDevice> measured;
};

// Peak of the matrix units for a dtype; 0 if the device lacks it.
FlopsPerSecond peak(const Gpu& gpu, sim::DType dtype);

}  // namespace reckon::hw
