#include "planner/variant.h"

#include <algorithm>

#include "planner/bill.h"
#include "planner/chunk_block.h"
#include "planner/groups.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

// The ops of `first`, then those of `second`: on every stream in that order.
std::shared_ptr<const sim::Block> in_turn(const sim::Block& first, const sim::Block& second) {
  sim::Block block = first;
  const auto ops = static_cast<std::uint32_t>(block.ops.size());
  const auto waits = static_cast<std::uint32_t>(block.waits.size());
  const auto works = static_cast<std::uint32_t>(block.works.size());
  for (sim::Op op : second.ops) {
    op.work += works;
    op.first_wait += waits;
    block.ops.push_back(op);
  }
  for (const std::uint32_t w : second.waits) block.waits.push_back(w + ops);
  block.works.insert(block.works.end(), second.works.begin(), second.works.end());
  return std::make_shared<const sim::Block>(std::move(block));
}

void take_pairs_apart(sim::Program& program, const Variant& v, int seq) {
  const Groups g = groups(v.plan, v.cluster);
  const Params params = parameters(v.model);
  Footprints footprints;
  const ChunkContext context{v.model, params, v.plan, v.stack, g, footprints.of(v.model, v.plan, g),
                             seq};
  std::vector<char> done(program.blocks.size(), 0);
  for (const sim::Role& role : program.roles)
    for (const sim::Slot& slot : role.slots) {
      if (slot.phase != sim::Phase::FB || done[slot.block] != 0) continue;
      done[slot.block] = 1;
      program.blocks[slot.block] =
          in_turn(*chunk_block(context, sim::Phase::F, &v.plan.layout[slot.chunk], nullptr),
                  *chunk_block(context, sim::Phase::BW, nullptr, &v.plan.layout[slot.chunk2]));
    }
}

// 2 bytes an element and no scales; see LayerOps::token_exchange.
void widen_dispatch(sim::Program& program, const Variant& v) {
  check(v.model.moe.has_value(), "a dispatch belongs to a mixture");
  const Bytes wide(2.0 * v.model.hidden + 12.0 * v.model.moe->top_k);
  for (auto& shared : program.blocks) {
    const auto narrow = [&](const sim::Work& w) {
      const auto* x = std::get_if<sim::TokenExchange>(&w);
      return x != nullptr && !x->combine && x->bytes_per_token < wide;
    };
    if (std::none_of(shared->works.begin(), shared->works.end(), narrow)) continue;
    sim::Block block = *shared;
    for (sim::Work& w : block.works)
      if (narrow(w)) std::get<sim::TokenExchange>(w).bytes_per_token = wide;
    shared = std::make_shared<const sim::Block>(std::move(block));
  }
}

bool edited(const Variant& v) {
  return v.pairs_in_turn || v.wide_dispatch;
}

Predictor::Run run_of(const Variant& v, Predictor& predictor, const StepShape& step) {
  Predictor::Run run = predictor.run(v.plan, step);
  if (!edited(v)) return run;
  if (v.pairs_in_turn) take_pairs_apart(run.program, v, step.seq);
  if (v.wide_dispatch) widen_dispatch(run.program, v);
  run.folded = sim::run_folded(run.program, predictor.times());
  run.prediction.step = sim::seconds(run.folded.end) + v.stack.host_per_step;
  return run;
}

std::optional<Infeasible> illegal(const Variant& v, const StepShape& step) {
  return why_illegal(v.model, v.cluster, v.stack, v.plan, step);
}

}  // namespace

Variant variant(const Scenario& s, const Plan& plan) {
  Variant v{.model = s.model, .cluster = s.cluster, .stack = s.stack, .plan = plan};
  if (plan.comm_sms > 0) v.stack.comm_sms = plan.comm_sms;
  return v;
}

std::variant<VariantResult, Infeasible> evaluate(const Variant& v, const StepShape& step) {
  if (auto no = illegal(v, step)) return std::move(*no);
  Predictor predictor(v.model, v.cluster, v.stack);
  Predictor::Run run = run_of(v, predictor, step);
  StepAccount account = step_account(run, predictor, v.stack);
  return VariantResult{std::move(run.prediction), std::move(account)};
}

Seconds step_of(const Variant& v, const StepShape& step) {
  Predictor predictor(v.model, v.cluster, v.stack);
  return edited(v) ? run_of(v, predictor, step).prediction.step : predictor.step(v.plan, step);
}

std::optional<double> phase_gpu_hours(const Variant& v, const PhaseOfCampaign& phase) {
  Predictor predictor(v.model, v.cluster, v.stack);
  const auto step_time = [&](std::int64_t batch) -> std::optional<Seconds> {
    const StepShape step{.seq = phase.seq, .global_batch = batch};
    if (illegal(v, step)) return std::nullopt;
    return edited(v) ? run_of(v, predictor, step).prediction.step : predictor.step(v.plan, step);
  };
  const std::int64_t quantum = static_cast<std::int64_t>(v.plan.dp) * v.plan.micro_batch;
  const auto bill = phase_bill(phase, v.cluster.gpus, quantum, step_time);
  if (!bill) return std::nullopt;
  return bill->gpu_hours;
}

const RankMemory& fullest_rank(const MemoryUse& memory) {
  return *std::max_element(
      memory.ranks.begin(), memory.ranks.end(),
      [](const RankMemory& a, const RankMemory& b) { return a.peak < b.peak; });
}

}  // namespace reckon::plan
