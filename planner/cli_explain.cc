// `reckon explain`: what binds a step, what more of each resource would bring, what each
// optimisation is worth, and why other plans lost.
#include "planner/cli_explain.h"

#include <fmt/format.h>

#include "planner/bill.h"
#include "planner/choice.h"
#include "planner/explain.h"
#include "planner/file.h"
#include "planner/interrupt.h"
#include "planner/plan_json.h"
#include "planner/scenario_json.h"
#include "planner/search_progress.h"
#include "planner/table.h"

namespace reckon::plan {
namespace {

ordered_json no_plan_json(const Scenario& s, const SearchStatistics& t) {
  ordered_json rejected = ordered_json::object();
  for (const auto& [reason, n] : t.rejected) rejected[reason] = n;
  return {{"scenario", s.name}, {"feasible", false}, {"rejected", rejected}};
}

int no_plan(const Scenario& s, const StepShape& step, const SearchStatistics& t, bool json) {
  if (json) {
    fmt::print("{}\n", no_plan_json(s, t).dump(2));
    return kInfeasible;
  }
  fmt::print("{}\n\nThere is no plan to explain: {}\n", headline(s, step),
             t.interrupted ? "the search was interrupted." : "none can run, because");
  Table table{.columns = {{"rejected"}, {"because", Align::Left}}};
  for (const auto& [reason, n] : t.rejected)
    table.rows.push_back({grouped(static_cast<double>(n)), reason});
  if (!t.interrupted) fmt::print("{}", text(table));
  return kInfeasible;
}

std::optional<Rival> rival(const Scenario& s, const StepShape& step, const char* label,
                           const Plan& plan) {
  auto result = evaluate(variant(s, plan), step);
  if (std::holds_alternative<Infeasible>(result)) return std::nullopt;
  return Rival{label, plan, std::move(std::get<VariantResult>(result))};
}

// An answer that is no, as a page.
void write_refusal(const std::string& file, PageContent page) {
  if (file.empty()) return;
  page.command = "explain";
  page.meets = false;
  write_file(file, report_page(page));
}

}  // namespace

int explain_command(const ExplainOptions& options, const CommonOptions& common) {
  if (!options.report.empty()) {
    require_page_library();
    check_writable(options.report);
  }
  const Scenario s = read_scenario(options.scenario);
  const Choice choice{.scenario = options.scenario, .plan = options.plan, .phase = options.phase};
  const std::size_t phase = chosen_phase(s, choice);
  const StepShape step = step_shape(s.campaign[phase]);
  std::optional<NamedFields> named;
  if (!options.why_not.empty()) named = read_named_fields(options.why_not);
  std::optional<Plan> given;
  if (options.given || !options.plan.empty()) given = chosen_plan(s, choice, phase);
  const std::atomic<bool>& stop = catch_interrupt();
  const SearchOptions search_options{.threads = thread_count(common), .keep = 2, .stop = &stop};
  const SearchResult found = search_with_progress(s, phase, search_options);

  if (named) {
    if (found.best.empty()) return no_plan(s, step, found.statistics, common.json);
    SearchOptions restricted = search_options;
    restricted.progress = progress_line("with " + named->text);
    const WhyNot w = why_not(s, step, found.best.front(), *named, restricted);
    end_progress_line();
    if (common.json)
      fmt::print("{}\n", to_json(w, found.best.front(), s).dump(2));
    else
      fmt::print("{}\n\n{}", headline(s, step), to_text(w, found.best.front(), s, step));
    return kDone;
  }

  if (!given && found.best.empty()) {
    write_refusal(options.report,
                  {.title = s.name,
                   .headline = headline(s, step),
                   .verdict = found.statistics.interrupted
                                  ? "The search was interrupted before any plan was simulated."
                                  : "No plan of this search space can run.",
                   .answer = no_plan_json(s, found.statistics)});
    return no_plan(s, step, found.statistics, common.json);
  }
  Explanation e{.phase = phase,
                .plan = given ? *given : found.best.front().plan,
                .found = !given,
                .interrupted = stop.load()};
  const Variant v = variant(s, e.plan);
  auto result = evaluate(v, step);
  if (const auto* no = std::get_if<Infeasible>(&result)) {
    const ordered_json out = {{"scenario", s.name},
                              {"plan", plan_to_json(e.plan)},
                              {"feasible", false},
                              {"reason", no->why},
                              {"detail", no->detail}};
    const std::string refusal = fmt::format("The plan can't run: {}{}", no->why,
                                            no->detail.empty() ? "" : " (" + no->detail + ")");
    write_refusal(options.report, {.title = s.name,
                                   .headline = headline(s, step),
                                   .verdict = refusal + ". " + describe(e.plan),
                                   .answer = out});
    if (common.json)
      fmt::print("{}\n", out.dump(2));
    else
      fmt::print("{}\n{}\n\n{}\n", headline(s, step), describe(e.plan), refusal);
    return kInfeasible;
  }
  e.result = std::move(std::get<VariantResult>(result));
  const auto add = [&](const char* label, const Plan& plan) {
    if (plan == e.plan) return;
    if (auto r = rival(s, step, label, plan)) e.rivals.push_back(std::move(*r));
  };
  if (given && !found.best.empty()) add("best plan", found.best.front().plan);
  if (!given && found.best.size() > 1) add("runner-up", found.best[1].plan);
  const std::optional<Plan>& scenarios = s.campaign[phase].plan ? s.campaign[phase].plan : s.plan;
  if (!given && scenarios) add("given", *scenarios);
  e.elasticities = elasticities(v, step, search_options.threads);
  if (!found.best.empty() && !stop.load()) {
    SearchOptions larger = search_options;
    larger.progress = progress_line("with more memory");
    e.memory = memory_elasticity(s, step, found.best.front().prediction.step, larger);
    end_progress_line();
  }
  e.ladder = ladder(v, s.campaign[phase], memory_limit(s), search_options.threads);
  if (!options.report.empty()) write_file(options.report, report_page(explain_page(e, s)));
  if (common.json)
    fmt::print("{}\n", to_json(e, s).dump(2));
  else
    fmt::print("{}", to_text(e, s));
  return kDone;
}

}  // namespace reckon::plan
