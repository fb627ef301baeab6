// The roofline of a report: every compute op of a step, by what it computes and what it moves.
#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "hw-models/kernel_model.h"
#include "planner/step_figures.h"
#include "sim/trace.h"

namespace reckon::plan {
namespace {

using nlohmann::ordered_json;

// Operands read and results written, once each: 0 for communication.
struct LeastTraffic {
  static double d(std::int64_t x) { return static_cast<double>(x); }
  static double product(double m, double n, double k, sim::Pass pass, sim::DType dtype) {
    // dw adds to fp32: read and written. The others write bf16.
    const double e = hw::bytes_per_element(dtype);
    switch (pass) {
      case sim::Pass::Forward: return (m * k + k * n) * e + 2 * m * n;
      case sim::Pass::InputGrad: return (m * n + k * n) * e + 2 * m * k;
      case sim::Pass::WeightGrad: return (m * k + m * n) * e + 8 * k * n;
    }
    return 0;
  }
  double operator()(const sim::MatMul& w) const {
    return d(w.batch) * product(d(w.m), d(w.n), d(w.k), w.pass, w.dtype);
  }
  double operator()(const sim::GroupedMatMul& w) const {
    const double groups = d(w.groups);
    return groups * product(d(w.m) / groups, d(w.n), d(w.k), w.pass, w.dtype);
  }
  double operator()(const sim::Attention& w) const {
    const double queries = d(w.batch) * d(w.heads) * d(w.seq_q);
    const double keys = d(w.batch) * d(w.kv_heads) * d(w.seq_k);
    const double forward = queries * d(w.qk_dim + w.v_dim) + keys * d(w.qk_dim + w.v_dim);
    // Backward reads q, k, v, o, do and writes dq, dk, dv.
    const double backward =
        queries * d(2 * w.qk_dim + 2 * w.v_dim) + 2 * keys * d(w.qk_dim + w.v_dim);
    return (w.backward ? backward : forward) * hw::bytes_per_element(w.dtype);
  }
  double operator()(const sim::MemoryBound& w) const { return w.traffic.si; }
  template <class Communication>
  double operator()(const Communication&) const {
    return 0;
  }
};

const char* dtype_name(sim::DType dtype) {
  switch (dtype) {
    case sim::DType::Fp32: return "fp32";
    case sim::DType::Tf32: return "tf32";
    case sim::DType::Fp16: return "fp16";
    case sim::DType::Bf16: return "bf16";
    case sim::DType::Fp8:
    case sim::DType::Fp8Block:
    case sim::DType::Mxfp8: return "fp8";
    case sim::DType::Nvfp4: return "fp4";
  }
  return "";
}

struct PointKind {
  const char* kind;
  const char* dtype;  // of the products; empty: none
};
struct PointKindOf {
  PointKind operator()(const sim::MatMul& w) const {
    return {"matrix product", dtype_name(w.dtype)};
  }
  PointKind operator()(const sim::GroupedMatMul& w) const {
    return {"grouped product", dtype_name(w.dtype)};
  }
  PointKind operator()(const sim::Attention& w) const { return {"attention", dtype_name(w.dtype)}; }
  PointKind operator()(const sim::MemoryBound&) const { return {"memory-bound", ""}; }
  template <class Communication>
  PointKind operator()(const Communication&) const {
    return {"", ""};
  }
};

struct Sum {
  PointKind kind{};
  double flops = 0, bytes = 0, seconds = 0, alone = 0, calls = 0;
  bool calibrated = true;
};

}  // namespace

ordered_json roofline_figure(const SimulatedStep& s) {
  const sim::Program& program = s.run.program;
  std::map<std::tuple<std::string, std::string, bool>, Sum> sums;  // label, phase, recompute
  double ranks = 0;
  for (const sim::Role& role : program.roles) {
    ranks += role.ranks;
    std::map<std::uint32_t, double> calls;  // of each block, on one rank
    for (const sim::Slot& slot : role.slots) calls[slot.block] += 1;
    calls[role.tail] += 1;
    for (const auto& [index, times] : calls) {
      const sim::Block& block = *program.blocks[index];
      const sim::BlockTime& time = s.predictor.block_time(program.blocks[index]);
      const double weight = times * role.ranks;
      for (std::size_t i = 0; i < block.ops.size(); ++i) {
        const sim::Op& op = block.ops[i];
        const sim::Work& work = block.works[op.work];
        const PointKind kind = std::visit(PointKindOf{}, work);
        if (*kind.kind == '\0') continue;
        const sim::OpCost& cost = s.predictor.times().cost(work);
        Sum& sum = sums[{op.label, sim::name(op.phase), op.recompute}];
        sum.kind = kind;
        sum.flops += weight * sim::flops(work).si;
        sum.bytes += weight * std::visit(LeastTraffic{}, work);
        sum.seconds += weight * sim::seconds(time.spans[i].end - time.spans[i].start).si;
        sum.alone += weight * cost.alone.si;
        sum.calls += weight;
        sum.calibrated = sum.calibrated && cost.calibrated;
      }
    }
  }
  std::vector<ordered_json> ops;
  for (const auto& [key, sum] : sums)
    ops.push_back({{"label", std::get<0>(key)},
                   {"phase", std::get<1>(key)},
                   {"recompute", std::get<2>(key)},
                   {"kind", sum.kind.kind},
                   {"dtype", sum.kind.dtype},
                   {"flops", sum.flops / ranks},
                   {"bytes", sum.bytes / ranks},
                   {"seconds", sum.seconds / ranks},
                   {"alone_s", sum.alone / ranks},
                   {"calls", sum.calls / ranks},
                   {"calibrated", sum.calibrated}});
  std::stable_sort(ops.begin(), ops.end(), [](const ordered_json& a, const ordered_json& b) {
    return a["seconds"].get<double>() > b["seconds"].get<double>();
  });
  const hw::Gpu& gpu = s.scenario.cluster.gpu;
  ordered_json peaks = ordered_json::object();  // of what the ops use
  for (const sim::DType t : {sim::DType::Fp32, sim::DType::Tf32, sim::DType::Fp16, sim::DType::Bf16,
                             sim::DType::Fp8, sim::DType::Nvfp4})
    if (std::any_of(ops.begin(), ops.end(),
                    [&](const ordered_json& op) { return op["dtype"] == dtype_name(t); }))
      peaks[dtype_name(t)] = hw::peak(gpu, t).si;
  return {{"gpu", gpu.name}, {"memory_rate", gpu.memory_rate.si}, {"peaks", peaks}, {"ops", ops}};
}

}  // namespace reckon::plan
