// `reckon simulate`: one plan, one step, and the campaign that it would take.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "planner/bill.h"
#include "planner/choice.h"
#include "planner/cli.h"
#include "planner/cluster_report.h"
#include "planner/file.h"
#include "planner/flow.h"
#include "planner/plan_json.h"
#include "planner/report.h"
#include "planner/report_page.h"
#include "planner/scenario_json.h"
#include "planner/table.h"
#include "sim/folded_timeline.h"
#include "sim/input_error.h"
#include "sim/trace.h"

namespace reckon::plan {
namespace {

// One sentence for the head of a report. `bill`: of the whole campaign; null: not known.
std::string verdict_of(const StepAnswer& a, const Bill* bill, const Scenario& s) {
  const std::string step =
      fmt::format("A step takes {}, {} of {} a GPU.", duration(a.prediction.step),
                  gibibytes(a.prediction.memory.peak), gibibytes(a.memory_limit));
  if (!fits(a)) return "The plan does not fit in memory. " + step;
  if (bill == nullptr) return step;
  const Verdict v = verdict(*bill, s.budget);
  return fmt::format("{}{} The campaign takes {} GPU-hours, {} days.",
                     v.lines.empty() ? ""
                     : v.meets       ? "The budget is met. "
                                     : "The budget is not met. ",
                     step, grouped(bill->gpu_hours), days_text(bill->days));
}

// One line on a terminal, rewritten in place; nothing elsewhere.
std::function<void(double)> flow_progress() {
  if (::isatty(STDERR_FILENO) == 0) return {};
  return [](double part) {
    if (part < 1)
      fmt::print(stderr, "\rflows: {:.0f} %\x1b[K", 100 * part);
    else
      fmt::print(stderr, "\r\x1b[K");
    std::fflush(stderr);
  };
}

FlowSetting flow_setting(const SimulateOptions& o, const Scenario& s) {
  if (!s.cluster.fabric.topology)
    throw InputError(
        o.scenario +
        ": /cluster/fabric: --fidelity flow expected the key \"topology\" (switches and "
        "cables), or a fabric of the catalogue that has one");
  FlowSetting f{.simgrid = o.solver == "simgrid",
                .order = o.nodes == "scattered" ? NodeOrder::Scattered : NodeOrder::InOrder,
                .seed = o.seed,
                .progress = flow_progress()};
  if (f.simgrid && !simgrid_available())
    throw InputError("--solver simgrid: this reckon was built without SimGrid (libsimgrid-dev)");
  if (f.simgrid && s.cluster.gpus > kMostSimGridHosts)
    throw InputError(
        fmt::format("--solver simgrid: expected at most {} GPUs, got {}; SimGrid would "
                    "take minutes an exchange",
                    kMostSimGridHosts, s.cluster.gpus));
  if (!o.no_cache) f.cache = o.cache.empty() ? DiskCache::usual_folder() : o.cache;
  return f;
}

// What `answer` throws about a part of the scenario, with the name of its file.
template <class F>
auto of_file(const std::string& file, F answer) {
  try {
    return answer();
  } catch (const InputError& e) {
    const std::string what = e.what();
    throw InputError(what.starts_with("/") || what.starts_with("cluster ") ? file + ": " + what
                                                                           : what);
  }
}

int refuse_cut(const Unreachable& cut, const Scenario& s, const CommonOptions& common) {
  if (common.json)
    fmt::print("{}\n", ordered_json{{"scenario", s.name},
                                    {"feasible", false},
                                    {"reason", "GPUs can't reach each other"},
                                    {"op", cut.op},
                                    {"from_gpu", cut.from},
                                    {"to_gpu", cut.to}}
                           .dump(2));
  else
    fmt::print("The plan can't run: over the links that are left GPU {} can't reach GPU {} ({})\n",
               cut.from, cut.to, cut.op);
  return kInfeasible;
}

}  // namespace

int simulate_command(const SimulateOptions& options, const CommonOptions& common) {
  if (!options.report.empty()) require_page_library();
  for (const std::string& file : {options.report, options.trace})
    if (!file.empty()) check_writable(file);
  const Scenario s = read_scenario(options.scenario);
  const Choice choice{.scenario = options.scenario, .plan = options.plan, .phase = options.phase};
  const std::size_t phase = chosen_phase(s, choice);
  const Plan plan = chosen_plan(s, choice, phase);
  const StepShape step = step_shape(s.campaign[phase]);

  if (const auto no = why_illegal(s.model, s.cluster, s.stack, plan, step)) {
    const ordered_json out = {{"scenario", s.name},
                              {"plan", plan_to_json(plan)},
                              {"feasible", false},
                              {"reason", no->why},
                              {"detail", no->detail}};
    const std::string refusal = fmt::format("The plan can't run: {}{}", no->why,
                                            no->detail.empty() ? "" : " (" + no->detail + ")");
    if (!options.report.empty())
      write_file(options.report, report_page({.command = "simulate",
                                              .title = s.name,
                                              .headline = headline(s, step),
                                              .meets = false,
                                              .verdict = refusal + ". " + describe(plan),
                                              .answer = out}));
    if (common.json)
      fmt::print("{}\n", out.dump(2));
    else
      fmt::print("{}\n{}\n\n{}\n", headline(s, step), describe(plan), refusal);
    return kInfeasible;
  }

  const Variant machine = variant(s, plan);  // the stack with the plan's SMs for communication
  Predictor predictor(machine.model, machine.cluster, machine.stack);
  const Predictor::Run run = predictor.run(plan, step);
  const StepAnswer answer{.plan = plan,
                          .prediction = run.prediction,
                          .step = step,
                          .use = step_use(run, predictor),
                          .memory_limit = memory_limit(s)};
  if (!options.trace.empty())
    write_file(options.trace,
               sim::chrome_trace(sim::timeline(run.program, run.folded, predictor.times())));

  std::optional<ClusterAnswer> cluster;
  if (options.fidelity == "cluster")
    cluster = of_file(options.scenario, [&] {
      const auto folder = std::filesystem::path(options.scenario).parent_path().string();
      return cluster_answer(run, predictor, plan, disturbances(s, plan, folder, options.seed));
    });

  std::optional<FlowAnswer> flow;
  if (options.fidelity == "flow") {
    auto flows = of_file(options.scenario,
                         [&] { return flow_answer(s, plan, step, flow_setting(options, s)); });
    if (const auto* cut = std::get_if<Unreachable>(&flows)) return refuse_cut(*cut, s, common);
    flow = std::get<FlowAnswer>(std::move(flows));
    fmt::print(stderr, "reckon: {} problems of flows solved, {} from the cache\n", flow->solved,
               flow->cached);
    if (!flow->cache_failure.empty())
      fmt::print(stderr, "reckon: results are not kept: {}\n", flow->cache_failure);
  }

  // The bill of the phases that can run: this plan for the phase it was simulated for, the
  // scenario's own plans for the others.
  Scenario known = s;
  known.campaign.clear();
  std::vector<Plan> plans;
  std::vector<std::string> unplanned;
  for (std::size_t i = 0; i < s.campaign.size(); ++i) {
    const PhaseOfCampaign& p = s.campaign[i];
    if (i == phase || p.gpu_hours > 0 || p.plan) {
      known.campaign.push_back(p);
      plans.push_back(i == phase ? plan : p.plan.value_or(plan));
    } else {
      unplanned.push_back(p.name);
    }
  }
  const auto bill = predicted_bill(known, plans, predictor);
  const Bill* campaign = std::get_if<Bill>(&bill);
  const bool whole = campaign != nullptr && unplanned.empty();

  ordered_json out;
  if (common.json || !options.report.empty()) {
    out = {{"scenario", s.name}, {"phase", s.campaign[phase].name}};
    out.update(to_json(answer));
    out["feasible"] = fits(answer);
    if (cluster) out["cluster"] = to_json(*cluster);
    if (flow) out["flow"] = to_json(*flow);
    if (campaign != nullptr) {
      out["campaign"] = to_json(*campaign);
      out["campaign"]["unplanned_phases"] = unplanned;
      out["budget"] = whole ? to_json(verdict(*campaign, s.budget)) : nullptr;
    } else {
      const NoBill& no = std::get<NoBill>(bill);
      out["campaign"] = nullptr;
      out["campaign_reason"] = fmt::format("phase {}: {} {}", no.phase, no.why.why, no.why.detail);
    }
  }
  if (!options.report.empty()) {
    std::optional<bool> meets;
    if (!fits(answer))
      meets = false;
    else if (whole && !verdict(*campaign, s.budget).lines.empty())
      meets = verdict(*campaign, s.budget).meets;
    write_file(
        options.report,
        report_page(
            {.command = "simulate",
             .title = s.name,
             .headline = headline(s, step),
             .meets = meets,
             .verdict = verdict_of(answer, whole ? campaign : nullptr, s),
             .answer = out,
             .figures = step_figures(
                 {.scenario = s, .plan = plan, .step = step, .run = run, .predictor = predictor},
                 elasticities(machine, step, thread_count(common)))}));
  }
  if (common.json) {
    fmt::print("{}\n", out.dump(2));
    return fits(answer) ? kDone : kInfeasible;
  }

  fmt::print("{}\nPlan: {}\n\n{}\n", headline(s, step), describe(plan), to_text(answer));
  if (cluster) fmt::print("{}\n", to_text(*cluster));
  if (cluster && s.disturbances && !s.disturbances->dead_links.empty())
    fmt::print("{}\n", wrapped("Dead links are not in these figures: see --fidelity flow."));
  if (flow) fmt::print("{}\n", to_text(*flow));
  fmt::print("Campaign{}\n", cluster ? ", undisturbed" : flow ? ", as folded has it" : "");
  if (campaign != nullptr) {
    fmt::print("{}", to_text(*campaign, s.cluster.currency));
    if (!unplanned.empty())
      fmt::print("{}", wrapped(fmt::format("Not counted, because the scenario gives them no plan: "
                                           "{}. `reckon plan` finds plans for them.",
                                           fmt::join(unplanned, ", "))));
    const Verdict v = verdict(*campaign, s.budget);
    if (whole && !v.lines.empty()) fmt::print("\nBudget\n{}", to_text(v, s.cluster.currency));
  } else {
    const NoBill& no = std::get<NoBill>(bill);
    fmt::print("  no bill: phase \"{}\" can't run with its plan: {} ({})\n", no.phase, no.why.why,
               no.why.detail);
  }
  return fits(answer) ? kDone : kInfeasible;
}

}  // namespace reckon::plan
