#include "hw-models/fitted.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "hw-models/embedded.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::hw {

namespace {

using nlohmann::json;

constexpr const char* kKernelFits = "kernels.json";
constexpr const char* kDTypes[] = {"fp32", "tf32",      "fp16",  "bf16",
                                   "fp8",  "fp8-block", "mxfp8", "nvfp4"};
constexpr const char* kAttention[] = {"unfused", "flash1", "flash2", "flash3", "cudnn"};
constexpr const char* kMemory[kMemoryKinds] = {"elementwise", "norm",          "quantise",
                                               "transpose",   "permute",       "router",
                                               "embedding",   "cross-entropy", "optimizer"};

// Index of `text` in `names`; nothing for "any".
template <class Names>
std::optional<std::size_t> choice(const std::string& text, const Names& names) {
  if (text == "any") return {};
  for (std::size_t i = 0; i < std::size(names); ++i)
    if (text == names[i]) return i;
  throw InputError(fmt::format("{}: unknown name \"{}\"", kKernelFits, text));
}

GemmFit gemm_row(const json& j) {
  GemmFit f{.architecture = j.at("architecture"),
            .calibrated = j.at("calibrated"),
            .peak_fraction = j.at("peak_fraction"),
            .largest_tile = j.at("largest_tile"),
            .intensity_rows = j.at("intensity_rows"),
            .tile_seconds = j.at("tile_seconds"),
            .wgrad_tile_seconds = j.at("wgrad_tile_seconds"),
            .launch_seconds = j.at("launch_seconds"),
            .memory_fraction = j.at("memory_fraction"),
            .grouped_fraction = j.at("grouped_fraction"),
            .in_training = j.at("harnesses").contains("dualpipe")};
  if (const auto i = choice(j.at("dtype"), kDTypes)) f.dtype = static_cast<sim::DType>(*i);
  return f;
}

AttentionFit attention_row(const json& j) {
  AttentionFit f{.architecture = j.at("architecture"),
                 .backward = j.at("backward"),
                 .calibrated = j.at("calibrated"),
                 .peak_fraction = j.at("peak_fraction"),
                 .softmax_flops = j.at("softmax_flops"),
                 .tile_seconds = j.at("tile_seconds"),
                 .launch_seconds = j.at("launch_seconds"),
                 .memory_fraction = j.at("memory_fraction")};
  if (const auto i = choice(j.at("kernel"), kAttention))
    f.kernel = static_cast<AttentionKernel>(*i);
  return f;
}

MemoryFit memory_row(const json& j) {
  MemoryFit f{.architecture = j.at("architecture")};
  for (const std::string name : j.at("measured"))
    if (const auto kind = choice(name, kMemory)) f.calibrated[*kind] = true;
  f.streaming_fraction = j.at("streaming_fraction");
  for (std::size_t i = 0; i < kMemoryKinds; ++i) {
    f.fraction[i] = j.at("fraction").at(kMemory[i]);
    f.launch_seconds[i] = j.at("launch_seconds").at(kMemory[i]);
  }
  return f;
}

// The first of `rows` that is `exact`, else the first of architecture "any" that `fits`.
template <class Row, class Exact, class Fits>
const Row& pick(const std::vector<Row>& rows, Exact exact, Fits fits) {
  for (const Row& r : rows)
    if (exact(r)) return r;
  for (const Row& r : rows)
    if (r.architecture == "any" && fits(r)) return r;
  check(false, "kernels.json has a row for any architecture");
  return rows.front();
}

}  // namespace

Fitted parse_fitted(std::string_view text) {
  try {
    const json root = json::parse(text);
    Fitted f;
    for (const json& j : root.at("gemm")) f.gemm.push_back(gemm_row(j));
    for (const json& j : root.at("attention")) f.attention.push_back(attention_row(j));
    for (const json& j : root.at("memory")) f.memory.push_back(memory_row(j));
    return f;
  } catch (const json::exception& e) {
    throw InputError(fmt::format("{}: {}", kKernelFits, e.what()));
  }
}

const Fitted& fitted() {
  static const Fitted all = [] {
    for (const EmbeddedFile& f : embedded_files())
      if (f.name == kKernelFits) return parse_fitted(f.text);
    check(false, "kernels.json is compiled in");
    return Fitted{};
  }();
  return all;
}

const GemmFit& gemm_fit(const Fitted& all, std::string_view architecture, sim::DType dtype) {
  if (dtype == sim::DType::Fp16) dtype = sim::DType::Bf16;
  return pick(
      all.gemm,
      [&](const GemmFit& f) {
        return f.architecture == architecture && (!f.dtype || *f.dtype == dtype);
      },
      [](const GemmFit& f) { return !f.dtype; });
}

const AttentionFit& attention_fit(const Fitted& all, std::string_view architecture,
                                  AttentionKernel kernel, bool backward) {
  return pick(
      all.attention,
      [&](const AttentionFit& f) {
        return f.architecture == architecture && (!f.kernel || *f.kernel == kernel) &&
               f.backward == backward;
      },
      [&](const AttentionFit& f) { return !f.kernel && f.backward == backward; });
}

const MemoryFit& memory_fit(const Fitted& all, std::string_view architecture) {
  return pick(
      all.memory, [&](const MemoryFit& f) { return f.architecture == architecture; },
      [](const MemoryFit&) { return true; });
}

}  // namespace reckon::hw
