// Matrix products. Per architecture and dtype: the constants of hw::GemmFit, and per table how much
// slower (ratio > 1) or faster its harness runs than the reference table of that family, one number
// for all its rows. The references are measured in training: DeepSeek's trace on Hopper,
// Transformer Engine loops on Blackwell; on Ampere the SXM part (the loops ran on the 300 W PCIe
// card). Where an isolated harness is the only source, it takes the ratio that its architecture has
// elsewhere.
#include <algorithm>
#include <cmath>

#include "hw-models/fit/devices.h"
#include "hw-models/fit/fits.h"
#include "hw-models/fit/gemm_rows.h"
#include "hw-models/kernel_model.h"

namespace reckon::fit {

namespace {

using sim::DType;

// Of the nameplate, by products too thin to be limited by arithmetic: streaming copies reach 0.85
// to 0.93 of it.
constexpr double kMemoryFraction = 0.85;
// Start values of a cast: seconds per call and per element.
constexpr double kCastLaunch = 5e-6, kCast = 1e-12;

struct Harness {
  std::string source;
  double ratio = 1;  // measured time over the reference's
  bool fit_ratio = false;
  // Where the harness quantises within its time: per call and per input element. 0: it does not.
  double cast_launch = 0, cast_seconds = 0;
  // Host time per group, where the harness launches one kernel per group. 0: not seen.
  double group_seconds = 0;
};

struct Family {
  const char *architecture, *dtype_name;
  DType dtype;
  double largest_tile;
  std::vector<Harness> harnesses;
  bool fit_launch = true;
};

// What a minimisation moves: GemmFit's constants, then ratios and cast times of the harnesses.
std::vector<double> pack(const hw::GemmFit& f, const Family& family, bool wgrad) {
  std::vector<double> v = {f.peak_fraction, f.intensity_rows, f.tile_seconds};
  if (family.fit_launch) v.push_back(f.launch_seconds);
  if (wgrad) v.push_back(f.wgrad_tile_seconds);
  for (const Harness& h : family.harnesses) {
    if (h.fit_ratio) v.push_back(h.ratio);
    if (h.cast_seconds > 0) v.insert(v.end(), {h.cast_launch, h.cast_seconds});
  }
  return v;
}

void unpack(const std::vector<double>& v, hw::GemmFit& f, Family& family, bool wgrad) {
  auto next = v.begin();
  for (double* c : {&f.peak_fraction, &f.intensity_rows, &f.tile_seconds}) *c = *next++;
  if (family.fit_launch) f.launch_seconds = *next++;
  if (wgrad) f.wgrad_tile_seconds = *next++;
  for (Harness& h : family.harnesses) {
    if (h.fit_ratio) h.ratio = *next++;
    if (h.cast_seconds > 0) h.cast_launch = *next++, h.cast_seconds = *next++;
  }
}

double modelled(const GemmRow& row, const hw::GemmFit& f, const Harness& h) {
  double seconds = 0;
  if (row.groups > 1) {
    const sim::GroupedMatMul op{.groups = row.groups,
                                .m = row.op.m,
                                .n = row.op.n,
                                .k = row.op.k,
                                .pass = row.op.pass,
                                .dtype = row.op.dtype};
    seconds = std::max(hw::grouped_gemm_time(f, op, *row.gpu, row.sms).seconds,
                       h.group_seconds * static_cast<double>(row.groups));
  } else {
    seconds = hw::gemm_time(f, row.op, *row.gpu, row.sms).seconds;
  }
  return h.ratio * seconds + (row.quantised > 0 ? h.cast_launch : 0) +
         h.cast_seconds * row.quantised;
}

const Harness* harness_of(const Family& family, const GemmRow& row) {
  for (const Harness& h : family.harnesses)
    if (h.source == row.source) return &h;
  return nullptr;
}

enum class Which { Dense, Grouped };

std::vector<const GemmRow*> select(const std::vector<GemmRow>& rows, const Family& family,
                                   bool left_out, Which which) {
  std::vector<const GemmRow*> out;
  for (const GemmRow& r : rows)
    if (r.gpu->architecture == family.architecture && r.op.dtype == family.dtype &&
        r.left_out == left_out && harness_of(family, r) &&
        (which == Which::Grouped) == (r.groups > 1))
      out.push_back(&r);
  return out;
}

std::vector<double> residuals(const std::vector<const GemmRow*>& rows, const hw::GemmFit& f,
                              const Family& family) {
  std::vector<double> out;
  for (const GemmRow* r : rows)
    out.push_back(std::log(modelled(*r, f, *harness_of(family, *r)) / r->seconds));
  return out;
}

// Tables count the same, the reference three times: it is the regime to predict.
std::vector<double> weights(const std::vector<const GemmRow*>& rows, const Family& family) {
  std::vector<std::string> tables;
  for (const GemmRow* r : rows) tables.push_back(r->source);
  std::vector<double> w = equal_tables(tables);
  for (std::size_t i = 0; i < w.size(); ++i)
    if (tables[i] == family.harnesses.front().source) w[i] *= 3;
  return w;
}

bool has_wgrad(const std::vector<const GemmRow*>& rows) {
  for (const GemmRow* r : rows)
    if (r->op.pass == sim::Pass::WeightGrad) return true;
  return false;
}

// The part of an fp32 read and write that a 128 x 128 tile can't hide: 8 - 2 bytes per output at
// one SM's share of the memory rate.
double exposed_accumulation(const hw::Gpu& gpu) {
  return 128. * 128 * 6 / (gpu.memory_rate.si / gpu.sms);
}

struct Fitter {
  const std::vector<GemmRow>& rows;
  FitResult result;

  hw::GemmFit fit(Family& family, double accumulation_share, double launch = 3e-6) {
    hw::GemmFit f{.architecture = family.architecture,
                  .calibrated = true,
                  .peak_fraction = 0.85,
                  .largest_tile = family.largest_tile,
                  .intensity_rows = 20,
                  .tile_seconds = 1e-6,
                  .wgrad_tile_seconds = 4e-6,
                  .launch_seconds = launch,
                  .memory_fraction = kMemoryFraction};
    f.dtype = family.dtype;
    const auto dense = select(rows, family, false, Which::Dense);
    const bool wgrad = has_wgrad(dense);
    const auto moved = minimise(
        [&](const std::vector<double>& v) {
          hw::GemmFit g = f;
          Family h = family;
          unpack(v, g, h, wgrad);
          return residuals(dense, g, h);
        },
        weights(dense, family), pack(f, family, wgrad));
    unpack(moved, f, family, wgrad);
    result.constants += static_cast<int>(moved.size());
    if (!wgrad)
      f.wgrad_tile_seconds =
          f.tile_seconds + accumulation_share * exposed_accumulation(*dense.front()->gpu);

    const auto grouped = select(rows, family, false, Which::Grouped);
    if (!grouped.empty()) {
      // The grouped rate, and the reference harness's host time per group if its rows show it.
      std::vector<double> start = {1.0};
      if (family.harnesses.front().group_seconds > 0)
        start.push_back(family.harnesses.front().group_seconds);
      const auto set = [&](const std::vector<double>& v, hw::GemmFit& g, Family& moved_family) {
        g.grouped_fraction = v[0];
        if (v.size() > 1) moved_family.harnesses.front().group_seconds = v[1];
      };
      const auto v = minimise(
          [&](const std::vector<double>& x) {
            hw::GemmFit g = f;
            Family m = family;
            set(x, g, m);
            return residuals(grouped, g, m);
          },
          weights(grouped, family), start);
      set(v, f, family);
      result.constants += static_cast<int>(v.size());
    }
    report(family, f);
    return f;
  }

  void report(const Family& family, const hw::GemmFit& f) {
    const std::string name = std::string("gemm ") + family.architecture + " " + family.dtype_name;
    for (const Harness& h : family.harnesses)
      for (const Which which : {Which::Dense, Which::Grouped}) {
        Family one = family;
        one.harnesses = {h};
        const auto unseen = select(rows, one, true, which);
        if (unseen.empty()) continue;
        result.tables.push_back({name + (which == Which::Grouped ? " grouped" : ""), h.source,
                                 select(rows, one, false, which).size(),
                                 errors_of(residuals(unseen, f, one))});
      }
  }

  void write(const Family& family, const hw::GemmFit& f, bool calibrated, const char* note) {
    nlohmann::ordered_json harnesses = nlohmann::ordered_json::object();
    for (const Harness& h : family.harnesses) {
      harnesses[h.source] = {{"time_ratio", h.ratio}};
      if (h.cast_seconds > 0)
        harnesses[h.source].update(
            {{"cast_launch_seconds", h.cast_launch}, {"cast_seconds_per_element", h.cast_seconds}});
      if (h.group_seconds > 0) harnesses[h.source]["host_seconds_per_group"] = h.group_seconds;
    }
    result.rows.push_back({{"architecture", family.architecture},
                           {"dtype", family.dtype_name},
                           {"calibrated", calibrated},
                           {"peak_fraction", f.peak_fraction},
                           {"largest_tile", static_cast<int>(f.largest_tile)},
                           {"intensity_rows", f.intensity_rows},
                           {"tile_seconds", f.tile_seconds},
                           {"wgrad_tile_seconds", f.wgrad_tile_seconds},
                           {"launch_seconds", f.launch_seconds},
                           {"memory_fraction", f.memory_fraction},
                           {"grouped_fraction", f.grouped_fraction},
                           {"harnesses", harnesses},
                           {"note", note}});
  }
};

}  // namespace

FitResult fit_gemm(const std::string& folder) {
  const std::vector<GemmRow> rows = gemm_rows(folder);
  Fitter fitter{rows, {}};
  const double big = 128 * 256;

  Family ampere{"ampere", "bf16", DType::Bf16, big, {{"isolated"}, {"simumax", 1.1, true}}};
  const hw::GemmFit a = fitter.fit(ampere, 0);
  fitter.write(ampere, a, true, "fp16 too");

  Family blackwell{"blackwell", "bf16", DType::Bf16, big, {{"simumax"}, {"isolated", 0.8, true}}};
  blackwell.harnesses[0].group_seconds = 8e-6;
  const hw::GemmFit b = fitter.fit(blackwell, 0);
  fitter.write(blackwell, b, true, "fp16 too");
  const double b_ratio = blackwell.harnesses[1].ratio;
  const auto hidden = [](const hw::GemmFit& f, const hw::Gpu& gpu) {
    return (f.wgrad_tile_seconds - f.tile_seconds) / exposed_accumulation(gpu);
  };
  const double share = (hidden(a, kA100Pcie) + hidden(b, kB200)) / 2;

  Family block{
      "hopper",
      "fp8-block",
      DType::Fp8Block,
      128 * 128,
      {{"dualpipe"}, {"deepgemm", 0.95, true}, {"isolated", 0.95, true, kCastLaunch, kCast}}};
  const hw::GemmFit h = fitter.fit(block, 0);
  fitter.write(block, h, true, "DeepGEMM, 2025-02");
  const double h_ratio = block.harnesses[2].ratio;

  Family hopper{"hopper", "bf16", DType::Bf16, big, {{"isolated", h_ratio}}};
  hw::GemmFit hb = fitter.fit(hopper, share);
  hb.grouped_fraction = std::sqrt(a.grouped_fraction * b.grouped_fraction);
  fitter.write(hopper, hb, true,
               "fp16 too; weight gradients and grouped products from Ampere and Blackwell");

  Family hopper8{
      "hopper", "fp8", DType::Fp8, big, {{"isolated", h_ratio, false, kCastLaunch, kCast}}, false};
  hw::GemmFit h8 = fitter.fit(hopper8, share, hb.launch_seconds);
  h8.grouped_fraction = hb.grouped_fraction;
  fitter.write(
      hopper8, h8, true,
      "per-tensor scales; weight gradients and grouped products from Ampere and Blackwell");

  const struct {
    const char* name;
    DType dtype;
  } small[] = {{"fp8", DType::Fp8}, {"fp8-block", DType::Fp8Block}, {"nvfp4", DType::Nvfp4}};
  for (const auto& d : small) {
    Family family{
        "blackwell", d.name, d.dtype, big, {{"isolated", b_ratio, false, kCastLaunch, kCast}},
        false};
    hw::GemmFit f = fitter.fit(family, hidden(b, kB200), b.launch_seconds);
    f.grouped_fraction = b.grouped_fraction;
    fitter.write(family, f, true, "weight gradients and grouped products as in bf16");
    if (d.dtype == DType::Fp8) {
      family.dtype_name = "mxfp8";
      fitter.write(family, f, false, "no table: as fp8");
    }
  }
  hw::GemmFit any = a;
  any.peak_fraction = 0.5, any.tile_seconds = 2e-6, any.wgrad_tile_seconds = 6e-6;
  any.memory_fraction = 0.6, any.grouped_fraction = 0.8;
  fitter.write({"any", "any", DType::Bf16, big, {}}, any, false, "conservative");
  any.intensity_rows = any.tile_seconds = any.wgrad_tile_seconds = 0, any.launch_seconds = 5e-6;
  any.grouped_fraction = 1;
  fitter.write({"cpu", "any", DType::Bf16, big, {}}, any, false, "roofline");
  return fitter.result;
}

}  // namespace reckon::fit
