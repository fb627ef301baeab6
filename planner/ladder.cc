// A rung is a copy of the variant with one thing changed, and with it what can't stay as it is (a
// 1F1B pipeline has one chunk per stage).
#include "planner/ladder.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "hw-models/hardware_fields.h"
#include "planner/bill.h"
#include "planner/parallel.h"
#include "planner/plan_fields.h"

namespace reckon::plan {

namespace {

struct Change {
  std::string what, from, to;
  // Ways to be without it; the fastest that fits counts, else the fastest.
  std::vector<Variant> without;
};

bool bidirectional(const Plan& p) {
  return p.schedule == ScheduleKind::DualPipe || p.schedule == ScheduleKind::DualPipeV;
}

class Changes {
 public:
  explicit Changes(const Variant& v) : v_(v) {}

  std::vector<Change> all() {
    schedule();
    numbers();
    recompute();
    routing();
    data_parallel();
    overlaps();
    kernels();
    return std::move(changes_);
  }

 private:
  template <class Edit>
  void add(std::string what, std::string from, std::string to, Edit edit) {
    Variant v = v_;
    edit(v);
    changes_.push_back({std::move(what), std::move(from), std::move(to), {std::move(v)}});
  }

  void schedule() {
    const Plan& p = v_.plan;
    if (p.pp > 1 && p.schedule != ScheduleKind::OneFOneB && p.schedule != ScheduleKind::GPipe) {
      Change c{"schedule", hw::spelling(p.schedule), "1F1B", {}};
      Variant v = v_;
      v.plan.schedule = ScheduleKind::OneFOneB;
      if (v.plan.overlap.expert != Overlap::Expert::None)
        v.plan.overlap.expert = Overlap::Expert::None;
      v.plan.vpp = 1;
      if (p.vpp == 1) {
        c.without.push_back(v);
      } else {
        const ModelParts parts{.layers = v.model.layers, .mtp = v.model.mtp_depth};
        for (const bool weigh_ends : {false, true}) {
          v.plan.layout = balanced_layout(parts, p.pp, weigh_ends);
          c.without.push_back(v);
        }
      }
      changes_.push_back(std::move(c));
    }
    if (bidirectional(p))
      add("F&B pairs", "overlapped", "F, then B", [](Variant& v) { v.pairs_in_turn = true; });
    if (p.overlap.expert == Overlap::Expert::OneFOneB)
      add("expert exchange under other passes", "on", "off",
          [](Variant& v) { v.plan.overlap.expert = Overlap::Expert::None; });
  }

  void numbers() {
    const Plan& p = v_.plan;
    if (is_fp8(p.precision))
      add("precision", hw::spelling(p.precision), "bf16",
          [](Variant& v) { v.plan.precision = Precision::Bf16; });
    if (p.precision == Precision::Fp8DeepSeek && p.ep > 1 && !v_.stack.reckon_ops)
      add("dispatch", "fp8", "bf16", [](Variant& v) { v.wide_dispatch = true; });
  }

  void recompute() {
    const Recompute& r = v_.plan.recompute;
    if (r.mode == Recompute::Mode::None) return;
    add("recompute", describe(r), "none", [](Variant& v) { v.plan.recompute = {}; });
    if (r.mode != Recompute::Mode::Selective) return;
    // DeepSeek's recipe keeps the activation's inputs in fp8 and makes its output again in the
    // backward pass, whatever the plan says (V3 report, section 3.3.3; activations.cc,
    // layer_ops.cc).
    const std::uint32_t in_recipe =
        v_.plan.precision == Precision::Fp8DeepSeek && !v_.stack.reckon_ops ? kActivation : 0u;
    for (const auto& known : spellings(RecomputeModule{}))
      if ((r.modules & known.value & ~in_recipe) != 0 && r.modules != known.value)
        add(fmt::format("recompute {}", known.text), "yes", "kept",
            [&](Variant& v) { v.plan.recompute.modules &= ~std::uint32_t{known.value}; });
  }

  void routing() {
    if (!v_.model.moe || v_.plan.ep == 1) return;
    const Moe& moe = *v_.model.moe;
    if (moe.limited_groups < moe.groups)
      add("node-limited routing", fmt::format("{} of {} groups", moe.limited_groups, moe.groups),
          "any experts", [](Variant& v) { v.model.moe->limited_groups = v.model.moe->groups; });
    if (v_.stack.dispatcher != hw::Dispatcher::AllToAll)
      add("token exchange", hw::spelling(v_.stack.dispatcher), "all-to-all",
          [](Variant& v) { v.stack.dispatcher = hw::Dispatcher::AllToAll; });
  }

  void data_parallel() {
    const Plan& p = v_.plan;
    if (p.zero == Zero::None || p.dp * p.cp == 1) return;
    add(p.zero == Zero::Optimizer   ? "ZeRO-1"
        : p.zero == Zero::Gradients ? "ZeRO-2"
                                    : "ZeRO-3",
        "sharded over data parallel", "not sharded", [](Variant& v) { v.plan.zero = Zero::None; });
  }

  void overlaps() {
    const Plan& p = v_.plan;
    const auto off = [&](const char* what, bool Overlap::*field) {
      add(what, "overlapped", "waited for", [&](Variant& v) { v.plan.overlap.*field = false; });
    };
    if (p.overlap.grad_reduce && p.dp * p.cp > 1 && p.zero != Zero::Full)
      off("gradient reductions", &Overlap::grad_reduce);
    if (p.overlap.param_gather && p.dp * p.cp > 1 && p.zero != Zero::None && p.zero != Zero::Full)
      off("parameter gathers", &Overlap::param_gather);
    if (p.overlap.p2p && p.pp > 1) off("messages between stages", &Overlap::p2p);
    if (p.overlap.tp && p.tp > 1) off("tensor-parallel collectives", &Overlap::tp);
    if (p.sequence_parallel && p.tp > 1)
      add("sequence parallelism", "on", "off", [](Variant& v) {
        v.plan.sequence_parallel = false;
        v.plan.overlap.tp = false;  // works on sequence shards
      });
  }

  void kernels() {
    const hw::Stack& s = v_.stack;
    if (s.attention != hw::AttentionKernel::Unfused && !s.reckon_ops)
      add("attention kernel", hw::spelling(s.attention), "unfused",
          [](Variant& v) { v.stack.attention = hw::AttentionKernel::Unfused; });
    static constexpr std::pair<const char*, bool hw::Stack::*> kFusions[] = {
        {"norms", &hw::Stack::fused_norm},
        {"activations", &hw::Stack::fused_activation},
        {"residuals", &hw::Stack::fused_residual},
        {"rotary embedding", &hw::Stack::fused_rope},
        {"loss", &hw::Stack::fused_cross_entropy},
        {"permutation", &hw::Stack::fused_permute},
        {"router", &hw::Stack::fused_router},
        {"optimizer", &hw::Stack::fused_optimizer},
        {"gradient accumulation", &hw::Stack::fused_wgrad_accumulation}};
    if (s.reckon_ops) return;
    std::vector<const char*> fused;
    Variant apart = v_;
    for (const auto& [name, field] : kFusions)
      if (s.*field) {
        fused.push_back(name);
        apart.stack.*field = false;
      }
    if (!fused.empty())
      changes_.push_back(
          {"fused kernels", fmt::format("{}", fused.size()), "separate", {std::move(apart)}});
    if (v_.model.moe && s.grouped_gemm != hw::GroupedGemmKernel::Loop)
      add("experts' products", hw::spelling(s.grouped_gemm), "one by one",
          [](Variant& v) { v.stack.grouped_gemm = hw::GroupedGemmKernel::Loop; });
    if (s.cuda_graphs)
      add("CUDA graphs", "on", "off", [](Variant& v) { v.stack.cuda_graphs = false; });
  }

  const Variant& v_;
  std::vector<Change> changes_;
};

}  // namespace

Ladder ladder(const Variant& v, const PhaseOfCampaign& phase, Bytes memory_limit, int threads) {
  const StepShape step = step_shape(phase);
  const std::vector<Change> changes = Changes(v).all();
  Ladder l{.step = step_of(v, step), .gpu_hours = phase_gpu_hours(v, phase), .rungs = {}};
  l.rungs.resize(changes.size());
  for_each_index(changes.size(), threads, [&](std::size_t i) {
    const Change& c = changes[i];
    Rung& rung = l.rungs[i];
    rung = {.what = c.what, .from = c.from, .to = c.to};
    const Variant* taken = nullptr;
    for (const Variant& w : c.without) {
      const auto result = evaluate(w, step);
      if (const auto* no = std::get_if<Infeasible>(&result)) {
        if (taken == nullptr) rung.illegal = *no;
        continue;
      }
      const Prediction& p = std::get<VariantResult>(result).prediction;
      const bool fits = p.memory.peak <= memory_limit;
      if (taken != nullptr && std::pair(!fits, p.step) >= std::pair(!rung.fits, rung.step))
        continue;
      taken = &w;
      rung.illegal.reset();
      rung.step = p.step;
      rung.memory = p.memory.peak;
      rung.fits = fits;
    }
    if (taken == nullptr) return;
    rung.worth = rung.step - l.step;
    const auto hours = phase_gpu_hours(*taken, phase);
    if (hours && l.gpu_hours) rung.gpu_hours = *hours - *l.gpu_hours;
  });
  return l;
}

}  // namespace reckon::plan
