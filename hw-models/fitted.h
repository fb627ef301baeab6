// Constants of the kernel model, fitted to measured tables by `reckon-fit` and read from
// catalog/kernels.json, where each row carries its source and its error on rows left out of the
// fit. The equations stand in gemm.cc, attention.cc and memory_bound.cc.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hw-models/stack.h"
#include "sim/work.h"

namespace reckon::hw {

// One matrix product kernel family on one architecture.
struct GemmFit {
  std::string architecture;
  std::optional<sim::DType> dtype;  // none: any
  bool calibrated = false;
  double peak_fraction = 0;         // of an SM's nameplate peak, in the k loop of the largest tile
  double largest_tile = 128 * 256;  // outputs; DeepGEMM's is 128 x 128
  double intensity_rows = 0;        // how much slower small tiles are, see gemm.cc
  double tile_seconds = 0;          // prologue and epilogue of a 128 x 128 tile, bf16 output
  double wgrad_tile_seconds = 0;    // the same where the output adds into an fp32 buffer
  double launch_seconds = 0;        // first instruction to last, of an empty kernel
  double memory_fraction = 0;       // of the nameplate memory rate
  double grouped_fraction = 1;      // rate of grouped kernels relative to dense ones
  bool in_training = false;         // the reference table was taken inside a training step
};

// One attention kernel on one architecture, forward or backward.
struct AttentionFit {
  std::string architecture;
  std::optional<AttentionKernel> kernel;  // none: any that stores no scores
  bool backward = false;
  bool calibrated = false;
  double peak_fraction = 0;  // of an SM's nameplate peak, products alone
  double softmax_flops = 0;  // work per visible (query, key) pair beside the products, in flops
  double tile_seconds = 0;   // prologue and epilogue of one 128-row tile
  double launch_seconds = 0;
  double memory_fraction = 0.8;
};

inline constexpr std::size_t kMemoryKinds = 9;

// Memory-bound kernels of one architecture; indices: sim::MemoryKind.
struct MemoryFit {
  std::string architecture;
  std::array<bool, kMemoryKinds> calibrated{};
  std::array<double, kMemoryKinds> fraction{};  // of the nameplate memory rate
  std::array<double, kMemoryKinds> launch_seconds{};
  double streaming_fraction = 0;  // the best that any kernel reaches, of the nameplate memory rate
};

struct Fitted {
  std::vector<GemmFit> gemm;
  std::vector<AttentionFit> attention;
  std::vector<MemoryFit> memory;
};

// Throws InputError if the text is not of the form of catalog/kernels.json.
Fitted parse_fitted(std::string_view json);

// The constants compiled into the program.
const Fitted& fitted();

// The row for a device. Where none exists, the row of architecture "any", whose constants are
// conservative and whose `calibrated` is false. fp16 uses the bf16 row.
const GemmFit& gemm_fit(const Fitted& all, std::string_view architecture, sim::DType dtype);
const AttentionFit& attention_fit(const Fitted& all, std::string_view architecture,
                                  AttentionKernel kernel, bool backward);
const MemoryFit& memory_fit(const Fitted& all, std::string_view architecture);

}  // namespace reckon::hw
