// Flash attention. Sources: the figures of the FlashAttention repositories (H100, A100; 16k tokens
// in all, hidden size 2048), Transformer Engine loops on A100-PCIe and B200, DeepSeek's training
// trace on H800 and one Llama step on H200. Some print forward and backward as one number, so both
// directions of a kernel are fitted together, with one softmax_flops.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <optional>

#include "hw-models/fit/devices.h"
#include "hw-models/fit/fits.h"
#include "hw-models/fit/table.h"
#include "hw-models/kernel_model.h"

namespace reckon::fit {

namespace {

using hw::AttentionKernel;
using nlohmann::json;

struct Row {
  std::string source;
  const hw::Gpu* gpu = nullptr;
  double sms = 0;
  AttentionKernel kernel = AttentionKernel::Flash2;
  sim::Attention op;  // the forward pass
  bool forward = false, backward = false;
  double seconds = 0;
  bool left_out = false;
};

void add(std::vector<Row>& rows, Row r) {
  r.left_out = left_out(fmt::format("{} {} {} {} {} {} {}", r.source, static_cast<int>(r.kernel),
                                    r.op.seq_q, r.op.heads, r.op.qk_dim, r.op.causal, r.backward),
                        4);
  rows.push_back(std::move(r));
}

void add_figures(std::vector<Row>& rows, const std::string& folder) {
  const json all = read_json(folder + "/published/attention.json");
  for (const json& r : all) {
    const std::string kernel = r.at("kernel"), gpu = r.at("gpu"), source = r.at("source");
    if (!source.starts_with("FlashAttention-") || r.at("tflops").is_null()) continue;
    const std::int64_t dim = r.at("head_dim"), seq = r.at("seq_len");
    const std::string passes = r.at("passes");
    const bool causal = r.at("causal");
    Row row{.source = "figures",
            .gpu = gpu == "A100" ? &kA100Sxm : &kH100,
            .kernel = kernel == "fa2"   ? AttentionKernel::Flash2
                      : kernel == "fa3" ? AttentionKernel::Flash3
                                        : AttentionKernel::CuDnn,
            .op = {.batch = 16384 / seq,
                   .heads = 2048 / dim,
                   .kv_heads = 2048 / dim,
                   .seq_q = seq,
                   .seq_k = seq,
                   .qk_dim = dim,
                   .v_dim = dim,
                   .causal = causal},
            .forward = true,
            .backward = passes == "fwd+bwd"};
    row.sms = row.gpu->sms;
    const double s2 = static_cast<double>(seq) * static_cast<double>(seq);
    const double flops = 4 * s2 * 2048. * static_cast<double>(row.op.batch) * (causal ? 0.5 : 1) *
                         (row.backward ? 3.5 : 1);
    const double tflops = r.at("tflops");
    row.seconds = flops / (tflops * 1e12);
    add(rows, row);
  }
}

void add_simumax(std::vector<Row>& rows, const std::string& folder) {
  const json all = read_json(folder + "/kernels/attention.json");
  for (const json& r : all.at("records")) {
    const std::string gpu = r.at("gpu"), pass = r.at("pass");
    const bool b200 = gpu == "B200-SXM";
    const double us = r.at("time_us");
    const std::int64_t seq = r.at("seq_len");
    if (b200 && us < 130) continue;  // the host's launch: 4 to 16 heads take the same time
    add(rows, {.source = "simumax",
               .gpu = b200 ? &kB200 : &kA100Pcie,
               .sms = b200 ? 148. : 108.,
               .kernel = b200 ? AttentionKernel::CuDnn : AttentionKernel::Flash2,
               .op = {.batch = r.at("batch"),
                      .heads = r.at("heads"),
                      .kv_heads = r.at("kv_heads"),
                      .seq_q = seq,
                      .seq_k = seq,
                      .qk_dim = r.at("qk_head_dim"),
                      .v_dim = r.at("v_head_dim")},
               .forward = pass == "fwd",
               .backward = pass == "bwd",
               .seconds = us * 1e-6});
  }
}

// One DeepSeek-V3 layer on 4096 tokens; communication holds 20 SMs of the 132 part of the time.
void add_dualpipe(std::vector<Row>& rows, const std::string& folder) {
  std::map<std::string, Row> sum;
  for (const CsvRow& r : read_csv(folder + "/h800-dualpipe/ops.csv")) {
    const std::string& category = r.at("category");
    if (!category.starts_with("attn_")) continue;
    const bool backward = category == "attn_bwd";
    Row& row = sum[category + r.at("layer")];
    row.source = "dualpipe", row.gpu = &kH100, row.kernel = AttentionKernel::Flash3;
    row.op = {
        .heads = 128, .kv_heads = 128, .seq_q = 4096, .seq_k = 4096, .qk_dim = 192, .v_dim = 128};
    row.forward = !backward, row.backward = backward;
    const double seconds = std::stod(r.at("excl_us")) * 1e-6;
    row.seconds += seconds;
    row.sms += seconds * (132 - 20 * std::stod(r.at("frac_under_dispatch_or_combine")));
  }
  for (auto& [name, row] : sum) {
    row.sms /= row.seconds;
    rows.push_back(row);
  }
}

struct Pair {
  hw::AttentionFit forward, backward;
};

double modelled(const Row& r, const Pair& p) {
  const int sms = static_cast<int>(std::lround(r.sms));
  double t = 0;
  sim::Attention op = r.op;
  if (r.forward) t += hw::flash_attention_time(p.forward, op, *r.gpu, sms).seconds;
  op.backward = true;
  if (r.backward) t += hw::flash_attention_time(p.backward, op, *r.gpu, sms).seconds;
  return t;
}

struct Family {
  const char *architecture, *name;
  AttentionKernel kernel;
  std::vector<std::string> sources;  // the first is the reference, others get a time ratio
  bool backward = true;              // measured at all
};

struct Moved {
  Pair fits;
  std::vector<double> ratios;  // per source of the family
};

Moved unpack(const Family& f, const std::vector<double>& v, Pair base) {
  Moved m{base, {}};
  base.forward.peak_fraction = v[0], base.forward.tile_seconds = v[1];
  base.forward.softmax_flops = base.backward.softmax_flops = v[2];
  std::size_t next = 3;
  if (f.backward) {
    base.backward.peak_fraction = v[3], base.backward.tile_seconds = v[4];
    next = 5;
  }
  for (hw::AttentionFit* a : {&base.forward, &base.backward}) {
    if (a->softmax_flops < 1) a->softmax_flops = 0;  // less than one multiply-add
    if (a->tile_seconds < 1e-9) a->tile_seconds = 0;
  }
  m.fits = base;
  m.ratios = {1};
  for (std::size_t i = 1; i < f.sources.size(); ++i) m.ratios.push_back(v[next++]);
  return m;
}

std::vector<double> residuals(const std::vector<const Row*>& rows, const Family& f,
                              const Moved& m) {
  std::vector<double> out;
  for (const Row* r : rows)
    for (std::size_t i = 0; i < f.sources.size(); ++i)
      if (f.sources[i] == r->source)
        out.push_back(std::log(m.ratios[i] * modelled(*r, m.fits) / r->seconds));
  return out;
}

struct Fitter {
  const std::vector<Row>& rows;
  FitResult result;

  std::vector<const Row*> select(const Family& f, bool left_out,
                                 std::optional<std::string> source = {}) const {
    std::vector<const Row*> out;
    for (const Row& r : rows)
      for (const std::string& s : f.sources)
        if (s == r.source && r.gpu->architecture == f.architecture && r.kernel == f.kernel &&
            r.left_out == left_out && (!source || *source == s))
          out.push_back(&r);
    return out;
  }

  Pair fit(const Family& f, double launch) {
    Pair base;
    for (hw::AttentionFit* a : {&base.forward, &base.backward}) {
      a->architecture = f.architecture, a->kernel = f.kernel, a->calibrated = true;
      a->launch_seconds = launch, a->memory_fraction = 0.85;
    }
    base.backward.backward = true;
    std::vector<double> start = {0.7, 1e-6, 100};
    if (f.backward) start.insert(start.end(), {0.6, 2e-6});
    start.insert(start.end(), f.sources.size() - 1, 1.0);
    const auto seen = select(f, false);
    std::vector<std::string> tables;
    for (const Row* r : seen)
      tables.push_back(r->source + (r->forward ? "f" : "") + (r->backward ? "b" : ""));
    const auto v = minimise(
        [&](const std::vector<double>& x) { return residuals(seen, f, unpack(f, x, base)); },
        equal_tables(tables), start);
    const Moved m = unpack(f, v, base);
    result.constants += static_cast<int>(v.size());
    for (const std::string& s : f.sources) {
      const auto unseen = select(f, true, s);
      if (unseen.empty()) continue;
      result.tables.push_back({fmt::format("attention {} {}", f.architecture, f.name), s,
                               select(f, false, s).size(), errors_of(residuals(unseen, f, m))});
    }
    nlohmann::ordered_json ratios = nlohmann::ordered_json::object();
    for (std::size_t i = 0; i < f.sources.size(); ++i)
      ratios[f.sources[i]] = {{"time_ratio", m.ratios[i]}};
    write(f.architecture, f.name, m.fits.forward, true, ratios, "");
    if (f.backward) write(f.architecture, f.name, m.fits.backward, true, ratios, "");
    return m.fits;
  }

  void write(const char* architecture, const char* name, const hw::AttentionFit& f, bool calibrated,
             const nlohmann::ordered_json& harnesses, const char* note) {
    result.rows.push_back({{"architecture", architecture},
                           {"kernel", name},
                           {"backward", f.backward},
                           {"calibrated", calibrated},
                           {"peak_fraction", f.peak_fraction},
                           {"softmax_flops", f.softmax_flops},
                           {"tile_seconds", f.tile_seconds},
                           {"launch_seconds", f.launch_seconds},
                           {"memory_fraction", f.memory_fraction},
                           {"harnesses", harnesses},
                           {"note", note}});
  }
};

}  // namespace

FitResult fit_attention(const std::string& folder) {
  std::vector<Row> rows;
  add_figures(rows, folder);
  add_simumax(rows, folder);
  add_dualpipe(rows, folder);
  Fitter fitter{rows, {}};
  constexpr double kLaunch = 3e-6;
  const auto none = nlohmann::ordered_json::object();

  const Pair a =
      fitter.fit({"ampere", "flash2", AttentionKernel::Flash2, {"figures", "simumax"}}, kLaunch);
  fitter.fit({"hopper", "flash2", AttentionKernel::Flash2, {"figures"}}, kLaunch);
  const Pair h3 =
      fitter.fit({"hopper", "flash3", AttentionKernel::Flash3, {"dualpipe", "figures"}}, kLaunch);
  fitter.fit({"hopper", "cudnn", AttentionKernel::CuDnn, {"figures"}, false}, kLaunch);
  fitter.write("hopper", "cudnn", h3.backward, false, none, "no table: as flash3");
  fitter.fit({"blackwell", "cudnn", AttentionKernel::CuDnn, {"simumax"}}, kLaunch);
  for (hw::AttentionFit f : {a.forward, a.backward}) {
    fitter.write("ampere", "cudnn", f, false, none, "no table: as flash2");
    // FlashAttention-2 (arXiv 2307.08691) gives 2x over its predecessor on A100.
    f.peak_fraction /= 2, f.tile_seconds *= 2;
    fitter.write("ampere", "flash1", f, false, none, "half the speed of flash2");
  }
  // Any other device: the lowest fractions above.
  for (const bool backward : {false, true}) {
    hw::AttentionFit f = backward ? a.backward : a.forward;
    f.peak_fraction = 0.3, f.tile_seconds = 1e-5, f.backward = backward;
    fitter.write("any", "any", f, false, none, "conservative");
  }
  return fitter.result;
}

}  // namespace reckon::fit
