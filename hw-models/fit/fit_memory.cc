// Memory-bound kernels, from DeepSeek's training trace on H800. Per kind two constants that make
// the sums of times right, since sums are what a step is made of: the mean time of its small
// kernels, and bytes over time of those whose bytes follow from the model's shapes. Kernels that
// ran while communication held 20 of 132 SMs had that much less of the device. Layer 4 of the 4 is
// left out.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "hw-models/fit/devices.h"
#include "hw-models/fit/fits.h"
#include "hw-models/fit/table.h"

namespace reckon::fit {

namespace {

using nlohmann::ordered_json;

struct Row {
  std::optional<double> bytes;  // none: not known
  double seconds = 0;           // with the whole device
  bool left_out = false;
};

constexpr double kSmall = 15e-6;  // seconds; kernels of unknown bytes above this are not used

// `prefix`: of the kernel's identification.
std::vector<Row> rows_of(const std::vector<CsvRow>& trace, const std::string& category,
                         const std::string& prefix = "") {
  std::vector<Row> rows;
  for (const CsvRow& r : trace) {
    const std::string& what = r.at("identification");
    if (r.at("category") != category || r.at("stream") == "27" || !what.starts_with(prefix))
      continue;
    const double shared = 20. / 132 * std::stod(r.at("frac_under_dispatch_or_combine"));
    Row row{.seconds = std::stod(r.at("excl_us")) * 1e-6 * (1 - shared),
            .left_out = r.at("layer") == "4"};
    if (!r.at("est_MB").empty()) row.bytes = std::stod(r.at("est_MB")) * 1e6;
    // Radix select over 4096 x 256 fp32 scores: counted as 30 passes (what lowering counts, too).
    if (what.starts_with("torch.topk")) row.bytes = 30. * 4 * 4096 * 256;
    if (row.seconds > 0) rows.push_back(row);
  }
  return rows;
}

// What copies reach of the nameplate rate; small operands found in the L2 don't raise it.
constexpr double kStreaming = 0.92;

struct Kind {
  double launch = 0, fraction = 0;
};

Kind fit(const std::vector<Row>& rows) {
  double small = 0, count = 0, bytes = 0, seconds = 0;
  for (const Row& r : rows) {
    if (r.left_out) continue;
    if (!r.bytes && r.seconds < kSmall) small += r.seconds, count += 1;
  }
  Kind k{.launch = count > 0 ? small / count : 3e-6};
  for (const Row& r : rows)
    if (!r.left_out && r.bytes) bytes += *r.bytes, seconds += r.seconds - k.launch;
  k.fraction = std::min(kStreaming, bytes / seconds / kH100.memory_rate.si);
  return k;
}

}  // namespace

FitResult fit_memory(const std::string& folder) {
  const auto trace = read_csv(folder + "/h800-dualpipe/ops.csv");
  FitResult result;
  const auto measured = [&](const char* kind, const std::vector<Row>& rows) {
    const Kind k = fit(rows);
    result.constants += 2;
    std::size_t fitted = 0, unseen = 0;
    double modelled = 0, traced = 0;
    for (const Row& r : rows) {
      if (!r.left_out) ++fitted;
      if (!r.left_out || (!r.bytes && r.seconds >= kSmall)) continue;
      ++unseen;
      modelled += k.launch + r.bytes.value_or(0) / (k.fraction * kH100.memory_rate.si);
      traced += r.seconds;
    }
    Errors error = errors_of({std::log(modelled / traced)});  // of the sum
    error.rows = unseen;
    result.tables.push_back(
        {fmt::format("memory hopper {} (sum)", kind), "dualpipe", fitted, error});
    return k;
  };
  const Kind elementwise = measured("elementwise", rows_of(trace, "elementwise"));
  const Kind norm = measured("norm", rows_of(trace, "norm"));
  const Kind quantise = measured("quantise", rows_of(trace, "quant"));
  const Kind transpose = measured("transpose", rows_of(trace, "quant", "transpose fp8"));
  Kind permute = measured("permute", rows_of(trace, "permute"));
  const Kind router = measured("router", rows_of(trace, "router"));

  const auto row = [&](const char* architecture, double scale, double streaming,
                       std::vector<std::string> measured_kinds, const char* note) {
    const std::pair<const char*, Kind> kinds[] = {
        {"elementwise", elementwise}, {"norm", norm},
        {"quantise", quantise},       {"transpose", transpose},
        {"permute", permute},         {"router", router},
        {"embedding", elementwise},   {"cross-entropy", elementwise},
        {"optimizer", elementwise}};
    ordered_json fraction, launch;
    for (const auto& [name, k] : kinds) {
      fraction[name] = k.fraction * scale;
      launch[name] = k.launch;
    }
    result.rows.push_back({{"architecture", architecture},
                           {"measured", measured_kinds},
                           {"streaming_fraction", streaming},
                           {"fraction", fraction},
                           {"launch_seconds", launch},
                           {"note", note}});
  };
  row("hopper", 1, kStreaming,
      {"elementwise", "norm", "quantise", "transpose", "permute", "router"},
      "the rest as elementwise");
  row("any", 0.9, kStreaming, {}, "a tenth slower than hopper");
  row("cpu", 0.6, 0.6, {}, "not measured");
  return result;
}

}  // namespace reckon::fit
