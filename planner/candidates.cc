// Nested loops from the degrees that decide most to those that decide least. A rule is asked as
// soon as everything it reads is chosen, and its objection counts for all combinations below.
#include "planner/candidates.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "planner/activations.h"
#include "planner/feasible.h"
#include "planner/launch/frameworks.h"
#include "planner/plan_fields.h"

namespace reckon::plan {

namespace {

std::vector<int> powers_of_two(int most) {
  std::vector<int> values;
  for (int v = 1; v <= most; v *= 2) values.push_back(v);
  return values;
}

std::vector<int> divisors(int n, int most) {
  std::vector<int> values;
  for (int v = 1; v <= std::min(n, most); ++v)
    if (n % v == 0) values.push_back(v);
  return values;
}

template <class T>
std::vector<T> given_or(const std::vector<T>& given, std::vector<T> otherwise) {
  return given.empty() ? otherwise : given;
}

// From what costs least time per byte saved to what costs most.
std::vector<Recompute> recompute_modes(const ModelShape& model, const hw::Stack& stack) {
  std::uint32_t cheap = kNorm | kActivation;
  if (model.mla) cheap |= kMlaUp;
  if (stack.attention == hw::AttentionKernel::Unfused) cheap |= kCoreAttention;
  const std::uint32_t mlp = model.moe ? kMoe : kMlp;
  using enum Recompute::Mode;
  return {{.mode = None},
          {.mode = Selective, .modules = cheap},
          {.mode = Selective, .modules = cheap | mlp},
          {.mode = Full}};
}

// Powers of two up to the largest that divides n.
std::vector<int> powers_of_two_in(std::int64_t n) {
  std::vector<int> values;
  for (std::int64_t v = 1; n % v == 0 && v <= 4096; v *= 2) values.push_back(static_cast<int>(v));
  return values;
}

constexpr int kLeastSlice = 2048;  // tokens; a shorter context slice never pays

}  // namespace

Candidates::Candidates(const Scenario& s, const StepShape& step) : scenario_(s), step_(step) {
  SearchSpace space = s.search;
  if (space.target) {
    target_ = space.launch_target();
    launch::fill_search_space(*target_, s.model, space);
  }
  const int most_tp = std::min(s.constraints.max_tp.value_or(s.cluster.node.gpus), s.cluster.gpus);
  tp_ = given_or(space.tp, powers_of_two(most_tp));
  cp_ = given_or(space.cp, powers_of_two(std::max(1, step.seq / kLeastSlice)));
  pp_ = given_or(space.pp, divisors(s.cluster.gpus, s.model.layers));
  ep_ = given_or(
      space.ep, s.model.moe ? divisors(s.model.moe->experts, s.cluster.gpus) : std::vector<int>{1});
  etp_ = given_or(space.etp, s.model.moe ? powers_of_two(most_tp) : std::vector<int>{1});
  micro_batch_ = given_or(space.micro_batch, powers_of_two_in(step.global_batch));
  for (ScheduleKind kind : given_or(
           space.schedule, {ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbH1,
                            ScheduleKind::ZbH2, ScheduleKind::ZbV, ScheduleKind::DualPipe,
                            ScheduleKind::DualPipeV, ScheduleKind::GPipe})) {
    switch (kind) {
      case ScheduleKind::Interleaved:
        for (int vpp : given_or(space.vpp, {2, 3, 4})) schedule_.push_back({kind, vpp});
        break;
      case ScheduleKind::ZbV:
      case ScheduleKind::DualPipeV: schedule_.push_back({kind, 2}); break;
      default: schedule_.push_back({kind, 1});
    }
  }
  // fp32 only where there is nothing else: a CPU.
  precision_ = given_or(space.precision, s.cluster.gpu.peak_bf16.si > 0
                                             ? std::vector{Precision::Bf16, Precision::Fp8,
                                                           Precision::Fp8DeepSeek, Precision::Mxfp8}
                                             : std::vector{Precision::Fp32});
  recompute_ = given_or(space.recompute, recompute_modes(s.model, s.stack));
  own_zero_ = space.zero.empty();
  zero_ = given_or(space.zero, {Zero::Optimizer, Zero::None, Zero::Gradients, Zero::Full});
  expert_ = given_or(space.expert_overlap,
                     {Overlap::Expert::None, Overlap::Expert::OneFOneB, Overlap::Expert::Pair});
  layout_ = {kEven, kLightEnds};
  if (s.plan) layout_.push_back(kAsGiven);
  const ModelParts parts{.layers = s.model.layers, .mtp = s.model.mtp_depth};
  for (int pp : pp_)
    for (const ScheduleChoice& choice : schedule_)
      if (const int chunks = pp * choice.vpp;
          chunks <= s.model.layers && !layouts_of_.count(chunks)) {
        Layouts& l = layouts_of_[chunks];
        l[kEven] = balanced_layout(parts, chunks);
        l[kLightEnds] = balanced_layout(parts, chunks, true);
        if (s.plan) l[kAsGiven] = s.plan->layout;
      }

  combinations_ = 1;
  for (std::size_t n : {tp_.size(), cp_.size(), pp_.size(), ep_.size(), etp_.size(),
                        micro_batch_.size(), schedule_.size(), precision_.size(), recompute_.size(),
                        expert_.size(), layout_.size(), zero_.size()})
    combinations_ *= static_cast<std::int64_t>(n);
}

void Candidates::set(Plan& p, const Candidate& c) const {
  const hw::Stack& stack = scenario_.stack;
  p.tp = c.tp, p.pp = c.pp, p.vpp = c.vpp, p.cp = c.cp, p.ep = c.ep, p.etp = c.etp;
  p.dp = scenario_.cluster.gpus / (p.tp * p.pp * p.cp);
  p.micro_batch = c.micro_batch;
  p.schedule = c.schedule;
  p.recompute = recompute_[c.recompute];
  p.precision = c.precision;
  p.zero = c.zero;
  p.sequence_parallel = p.tp > 1;
  p.overlap.grad_reduce = stack.can_overlap_grad_reduce;
  p.overlap.param_gather = stack.can_overlap_param_gather;
  p.overlap.tp = stack.can_overlap_tp && p.tp > 1;
  // Plain 1F1B and GPipe wait for their messages, as in Megatron-LM.
  p.overlap.p2p = stack.can_overlap_p2p && p.schedule != ScheduleKind::GPipe &&
                  p.schedule != ScheduleKind::OneFOneB;
  p.overlap.expert = c.expert;
  if (target_) launch::set_own_switches(*target_, p);
}

Plan Candidates::plan(const Candidate& c) const {
  Plan p;
  set(p, c);
  p.layout = layouts_of_.at(p.pp * p.vpp)[c.layout];
  return p;
}

// Gradients alive in the backward pass of the widest layer, and the runtime's reserve. Some rank
// holds a layer of each kind; see memory.cc.
Bytes Candidates::least_memory(Plan p) const {
  const ModelShape& m = scenario_.model;
  const int mixtures =
      m.moe ? static_cast<int>(std::count(m.moe->layers.begin(), m.moe->layers.end(), true)) : 0;
  double least = std::numeric_limits<double>::infinity();
  for (Precision precision : precision_) {
    p.precision = precision;
    const ActivationSums a = activation_sums(m, p, scenario_.stack, step_.seq);
    double widest = 0;
    if (mixtures > 0) widest = a.moe.working;
    if (mixtures < m.layers) widest = std::max(widest, a.dense.working);
    least = std::min(least, widest);
  }
  return Bytes(least) + scenario_.stack.reserve;
}

bool Candidates::fits_any(const Plan& p) const {
  return least_memory(p) <= scenario_.cluster.gpu.memory - scenario_.constraints.memory_margin;
}

namespace {

template <class T, class Text>
std::vector<std::string> texts(const std::vector<T>& values, Text text) {
  std::vector<std::string> result;
  for (const T& v : values) result.push_back(text(v));
  return result;
}

}  // namespace

std::vector<Dimension> Candidates::dimensions() const {
  const auto number = [](int v) { return std::to_string(v); };
  const auto spelled = [](auto v) { return std::string(hw::spelling(v)); };
  const std::array<const char*, kLayouts> layouts{"even", "lighter ends", "the scenario's own"};
  return {{"tp", texts(tp_, number)},
          {"cp", texts(cp_, number)},
          {"pp", texts(pp_, number)},
          {"ep", texts(ep_, number)},
          {"etp", texts(etp_, number)},
          {"micro-batch", texts(micro_batch_, number)},
          {"schedule", texts(schedule_,
                             [&](const ScheduleChoice& s) {
                               const bool chunks = s.kind == ScheduleKind::Interleaved;
                               return spelled(s.kind) + (chunks ? " x" + number(s.vpp) : "");
                             })},
          {"precision", texts(precision_, spelled)},
          {"recompute", texts(recompute_, [](const Recompute& r) { return describe(r); })},
          {"expert overlap", texts(expert_, spelled)},
          {"layout", texts(layout_, [&](std::uint8_t l) { return std::string(layouts[l]); })},
          {"ZeRO", texts(zero_, [&](Zero z) { return number(static_cast<int>(z)); })}};
}

std::vector<std::string> Candidates::not_searched() const {
  const SearchSpace& given = scenario_.search;
  std::vector<std::string> list{"fewer GPUs than the cluster has", "layouts other than those above",
                                "shard groups smaller than all data-parallel ranks",
                                "switching off an overlap that the software can do"};
  if (given.tp.empty()) list.push_back("tensor parallelism across nodes, or not a power of two");
  if (given.cp.empty())
    list.push_back("context slices below " + std::to_string(kLeastSlice) + " tokens");
  if (given.micro_batch.empty()) list.push_back("micro-batches that are not a power of two");
  if (given.vpp.empty()) list.push_back("more than 4 chunks per stage");
  if (given.zero.empty()) {
    list.push_back("ZeRO-2 with several micro-batches");
    list.push_back("ZeRO-3 with a pipeline");
  }
  return list;
}

// The walk down the loops: what is chosen so far, and what was found.
struct Candidates::Walk {
  const Candidates& space;
  const launch::Judge* judge = nullptr;            // of the target framework
  std::map<const char*, std::int64_t> tally = {};  // by address: each reason is one static text
  std::vector<Candidate> found = {};
  std::int64_t below = 0;    // combinations that share what is chosen so far
  std::int64_t next_id = 0;  // of the first of them
  Candidate c = {};
  Plan p = {};
  const SearchSpace& given() const { return space.scenario_.search; }
  bool bidirectional() const {
    return c.schedule == ScheduleKind::DualPipe || c.schedule == ScheduleKind::DualPipeV;
  }
  bool single_pass() const {  // a step is one micro-batch on one stage
    return c.pp == 1 && space.step_.global_batch == static_cast<std::int64_t>(p.dp) * p.micro_batch;
  }
  const char* against(Rule rule) {
    const Scenario& s = space.scenario_;
    return objection(rule, {s.model, s.cluster, s.stack, p, space.step_});
  }
  // Of the target framework, once everything else is chosen.
  const char* against_target() const {
    const Scenario& s = space.scenario_;
    return judge == nullptr ? nullptr
                            : judge->objection({s.model, s.cluster, s.stack, p, space.step_});
  }
  // Empty where there are more chunks than layers.
  const std::vector<ChunkLayout>& layout(std::uint8_t choice) const {
    static const std::vector<ChunkLayout> kNone;
    const auto it = space.layouts_of_.find(c.pp * c.vpp);
    return it == space.layouts_of_.end() ? kNone : it->second[choice];
  }

  // One loop: its length; makes its i-th choice; asks what can be asked now.
  struct Level {
    std::size_t (*size)(const Candidates&);
    const char* (*choose)(Walk&, std::size_t i);
  };
  static const Level kLevels[12];

  void descend(std::size_t level) {
    const std::size_t n = kLevels[level].size(space);
    const std::int64_t here = below;
    below /= static_cast<std::int64_t>(n);
    for (std::size_t i = 0; i < n; ++i) {
      if (const char* reason = kLevels[level].choose(*this, i)) {
        tally[reason] += below;
        next_id += below;
      } else if (level + 1 < std::size(kLevels)) {
        descend(level + 1);
      } else {
        c.id = next_id++;
        found.push_back(c);
      }
    }
    below = here;
  }
};

namespace {
std::uint16_t narrow(int v) {
  return static_cast<std::uint16_t>(v);
}
}  // namespace

const Candidates::Walk::Level Candidates::Walk::kLevels[] = {
    {[](const Candidates& s) { return s.tp_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.tp = narrow(w.space.tp_[i]);
       return nullptr;
     }},
    {[](const Candidates& s) { return s.cp_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.cp = narrow(w.space.cp_[i]);
       return nullptr;
     }},
    {[](const Candidates& s) { return s.pp_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.pp = narrow(w.space.pp_[i]);
       if (w.space.scenario_.cluster.gpus % (w.c.tp * w.c.cp * w.c.pp) != 0)
         return "tp x cp x pp does not divide the GPUs";
       w.c.vpp = w.c.ep = w.c.etp = w.c.micro_batch = 1;
       w.space.set(w.p, w.c);
       if (const char* reason = w.against(Rule::Sizes)) return reason;
       return w.against(Rule::WithinLayer);
     }},
    {[](const Candidates& s) { return s.ep_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.ep = narrow(w.space.ep_[i]);
       w.c.etp = 1;
       w.space.set(w.p, w.c);
       return w.against(Rule::Experts);
     }},
    {[](const Candidates& s) { return s.etp_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.etp = narrow(w.space.etp_[i]);
       w.space.set(w.p, w.c);
       return w.against(Rule::Experts);
     }},
    {[](const Candidates& s) { return s.micro_batch_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.micro_batch = narrow(w.space.micro_batch_[i]);
       w.space.set(w.p, w.c);
       return w.space.fits_any(w.p) ? nullptr
                                    : "one layer of so large a micro-batch does not fit in memory";
     }},
    {[](const Candidates& s) { return s.schedule_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.schedule = w.space.schedule_[i].kind;
       w.c.vpp = narrow(w.space.schedule_[i].vpp);
       if (w.c.pp == 1 && w.given().schedule.empty() && w.c.schedule != ScheduleKind::OneFOneB)
         return "not searched: a pipeline schedule without a pipeline";
       w.space.set(w.p, w.c);
       w.p.layout = w.layout(kEven);
       if (const char* reason = w.against(Rule::Layers)) return reason;
       return w.against(Rule::Schedule);
     }},
    {[](const Candidates& s) { return s.precision_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.p.precision = w.c.precision = w.space.precision_[i];
       return w.against(Rule::Numbers);
     }},
    {[](const Candidates& s) { return s.recompute_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.recompute = static_cast<std::uint8_t>(i);
       w.p.recompute = w.space.recompute_[i];
       return w.against(Rule::Recompute);
     }},
    {[](const Candidates& s) { return s.expert_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.expert = w.space.expert_[i];
       if (w.bidirectional() && w.c.expert != Overlap::Expert::Pair)
         return "DualPipe and DualPipeV always pair forward and backward passes";
       w.c.zero = Zero::Optimizer;
       w.space.set(w.p, w.c);
       // A target sets switches by ZeRO stage: it is asked below, with everything chosen.
       return w.judge == nullptr ? w.against(Rule::Abilities) : nullptr;
     }},
    {[](const Candidates& s) { return s.layout_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.c.layout = w.space.layout_[i];
       for (std::size_t k = 0; k < i; ++k)
         if (w.layout(w.c.layout) == w.layout(w.space.layout_[k]))
           return "the same layout as another candidate";
       if (w.c.layout != kAsGiven && w.judge == nullptr) return nullptr;
       w.p.layout = w.layout(w.c.layout);
       return w.against(Rule::Layers);
     }},
    {[](const Candidates& s) { return s.zero_.size(); },
     [](Walk& w, std::size_t i) -> const char* {
       w.p.zero = w.c.zero = w.space.zero_[i];
       if (w.judge != nullptr) w.space.set(w.p, w.c);
       if (w.space.own_zero_) {
         // Its reductions after every micro-batch are not modelled (lower.cc reduces once a step).
         if (w.c.zero == Zero::Gradients && !w.single_pass())
           return "not searched: ZeRO-2 with several micro-batches";
         if (w.c.zero != Zero::Optimizer && w.p.dp * w.p.cp == 1)
           return "the same as ZeRO-1: one replica";
       }
       if (w.given().zero.empty() && w.c.zero == Zero::Full && w.c.pp > 1)
         return "not searched: fully sharded parameters with a pipeline";
       if (w.c.zero == Zero::Full || w.judge != nullptr)
         if (const char* reason = w.against(Rule::Abilities)) return reason;
       return w.against_target();
     }},
};

std::vector<Candidate> Candidates::legal(Tally& rejected) const {
  std::optional<launch::Judge> judge;
  if (target_) judge.emplace(*target_, scenario_.model);
  Walk walk{.space = *this, .judge = judge ? &*judge : nullptr, .below = combinations_};
  walk.descend(0);
  for (const auto& [reason, count] : walk.tally) rejected[reason] += count;
  return std::move(walk.found);
}

}  // namespace reckon::plan
