// `reckon plan`: search the plans of a scenario, price the campaign with each, judge the budget.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

#include "planner/bill.h"
#include "planner/cli.h"
#include "planner/disturbances.h"
#include "planner/file.h"
#include "planner/interrupt.h"
#include "planner/plan_json.h"
#include "planner/plan_report.h"
#include "planner/report_page.h"
#include "planner/scenario_json.h"
#include "planner/search.h"
#include "planner/search_progress.h"
#include "sim/cluster.h"
#include "sim/input_error.h"

namespace reckon::plan {
namespace {

SearchResult searched(const Scenario& s, std::size_t phase, int keep, int threads,
                      const std::atomic<bool>& stop) {
  return search_with_progress(s, phase, {.threads = threads, .keep = keep, .stop = &stop});
}

// The plans that the campaign's other phases run: their own, else the fastest found for each; where
// none is found, what plans_of_phases says.
std::vector<std::optional<Plan>> plans_of_other_phases(const Scenario& s, std::size_t searched_one,
                                                       int threads, const std::atomic<bool>& stop) {
  std::vector<std::optional<Plan>> plans(s.campaign.size());
  for (std::size_t i = 0; i < s.campaign.size(); ++i) {
    const PhaseOfCampaign& phase = s.campaign[i];
    if (i == searched_one || phase.gpu_hours > 0 || phase.plan) continue;
    const SearchResult r = searched(s, i, 1, threads, stop);
    if (!r.best.empty()) plans[i] = r.best.front().plan;
  }
  return plans;
}

// The report, with the figures of the first plan.
std::string page_of(const PlanAnswer& a, const Scenario& s, Predictor& predictor, int threads) {
  const StepShape step = step_shape(s.campaign[a.phase]);
  PageContent page{.command = "plan",
                   .title = s.name,
                   .headline = headline(s, step),
                   .verdict = verdict_sentence(a, s),
                   .answer = to_json(a, s)};
  if (s.budget.gpu_hours || s.budget.days || s.budget.money || a.plans.empty())
    page.meets = a.meets(s.budget);
  if (!a.plans.empty()) {
    const Plan& best = a.plans.front().plan;
    const Predictor::Run run = predictor.run(best, step);
    page.figures = step_figures(
        {.scenario = s, .plan = best, .step = step, .run = run, .predictor = predictor},
        elasticities(variant(s, best), step, threads));
  }
  return report_page(page);
}

struct Finalist {
  PlanRow* row = nullptr;
  sim::Disturbances disturbances;
};

// Fills in the finalists' steps on every rank, disturbed.
void disturb(const std::vector<Finalist>& finalists, const Scenario& s, const StepShape& step,
             int threads) {
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    Predictor predictor(s.model, s.cluster, s.stack);
    for (std::size_t i = next++; i < finalists.size(); i = next++) {
      PlanRow& row = *finalists[i].row;
      const Predictor::Run run = predictor.run(row.plan, step);
      const sim::ClusterRun cluster =
          run_cluster(run.program, predictor.times(), finalists[i].disturbances);
      row.disturbed = sim::seconds(cluster.end) + run.prediction.phases.host;
    }
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& t : pool) t.join();
}

}  // namespace

int plan_command(const PlanOptions& options, const CommonOptions& common) {
  if (!options.report.empty()) require_page_library();
  for (const std::string& file : {options.report, options.output})
    if (!file.empty()) check_writable(file);
  const Scenario s = read_scenario(options.scenario);
  const std::optional<std::size_t> phase = searched_phase(s);
  if (!phase)
    throw InputError(options.scenario +
                     ": /campaign: expected at least one phase whose gpu_hours are not given");
  const StepShape step = step_shape(s.campaign[*phase]);
  const std::atomic<bool>& stop = catch_interrupt();
  const int threads = thread_count(common);

  SearchResult found = searched(s, *phase, options.keep, threads, stop);
  const auto others = plans_of_other_phases(s, *phase, threads, stop);

  Predictor predictor(s.model, s.cluster, s.stack);
  const auto all_plans = [&](const Plan& plan) {
    std::vector<Plan> plans = plans_of_phases(s, plan);
    for (std::size_t i = 0; i < plans.size(); ++i)
      if (others[i]) plans[i] = *others[i];
    return plans;
  };
  const auto row = [&](const Plan& plan, const Prediction& prediction) {
    return PlanRow{.plan = plan,
                   .prediction = prediction,
                   .bill = predicted_bill(s, all_plans(plan), predictor),
                   .fits = prediction.memory.peak <= memory_limit(s)};
  };

  PlanAnswer answer{.phase = *phase, .statistics = found.statistics, .interrupted = stop.load()};
  for (const FoundPlan& f : found.best) answer.plans.push_back(row(f.plan, f.prediction));
  for (const FoundPlan& f : found.pareto) answer.pareto.push_back(row(f.plan, f.prediction));
  const std::optional<Plan>& given = s.campaign[*phase].plan ? s.campaign[*phase].plan : s.plan;
  if (given) {
    answer.published_refused = why_illegal(s.model, s.cluster, s.stack, *given, step);
    if (!answer.published_refused) answer.published = row(*given, predictor.predict(*given, step));
  }
  if (s.disturbances && !stop.load()) {
    const std::string folder = std::filesystem::path(options.scenario).parent_path().string();
    std::vector<Finalist> finalists;
    const auto add = [&](PlanRow& r) {
      finalists.push_back({&r, disturbances(s, r.plan, folder, sim::Disturbances{}.seed)});
    };
    for (PlanRow& r : answer.plans) add(r);
    if (answer.published) add(*answer.published);
    disturb(finalists, s, step, threads);
    std::stable_sort(
        answer.plans.begin(), answer.plans.end(),
        [](const PlanRow& a, const PlanRow& b) { return *a.disturbed < *b.disturbed; });
  }
  if (!answer.plans.empty()) {
    const PlanRow& best = answer.plans.front();
    answer.use = step_use(predictor.run(best.plan, step), predictor);
    const Bill* bill = std::get_if<Bill>(&best.bill);
    if (bill != nullptr && !answer.meets(s.budget))
      answer.what_ifs = what_ifs(s, all_plans(best.plan), *bill);
    if (!options.output.empty()) write_file(options.output, plan_to_json(best.plan).dump(2) + "\n");
  } else if (!options.output.empty()) {
    fmt::print(stderr, "reckon: no plan found; {} is not written\n", options.output);
  }

  if (!options.report.empty()) write_file(options.report, page_of(answer, s, predictor, threads));
  if (common.json)
    fmt::print("{}\n", to_json(answer, s).dump(2));
  else
    fmt::print("{}", to_text(answer, s));
  return answer.meets(s.budget) ? kDone : kInfeasible;
}

}  // namespace reckon::plan
