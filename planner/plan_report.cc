#include "planner/plan_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/plan_json.h"
#include "planner/table.h"

namespace reckon::plan {
namespace {

bool has_budget(const Scenario& s) {
  return s.budget.gpu_hours || s.budget.days || s.budget.money;
}

const Bill* bill_of(const PlanRow& row) {
  return std::get_if<Bill>(&row.bill);
}

ordered_json row_json(const PlanRow& r, const Scenario& s) {
  const Bill* bill = bill_of(r);
  const auto or_null = [&](auto value) {
    return bill != nullptr ? ordered_json(value(*bill)) : ordered_json(nullptr);
  };
  return {{"name", describe(r.plan)},
          {"plan", plan_to_json(r.plan)},
          {"step_s", r.prediction.step.si},
          {"disturbed_step_s", r.disturbed ? ordered_json(r.disturbed->si) : nullptr},
          {"gpu_hours", or_null([](const Bill& b) { return b.gpu_hours; })},
          {"days", or_null([](const Bill& b) { return b.days; })},
          {"cost", bill != nullptr && bill->money ? ordered_json(*bill->money) : nullptr},
          {"peak_memory_GiB", r.prediction.memory.peak / GiB},
          {"fits", r.fits},
          {"meets_budget", r.meets(s.budget)}};
}

ordered_json statistics_json(const SearchStatistics& t) {
  ordered_json rejected = ordered_json::object();
  for (const auto& [reason, count] : t.rejected) rejected[reason] = count;
  ordered_json searched = ordered_json::object();
  for (const Dimension& d : t.searched) searched[d.name] = d.values;
  return {{"candidates", t.candidates},
          {"feasible", t.feasible},
          {"memory_checked", t.memory_checked},
          {"simulated", t.simulated},
          {"pruned_by_bound", t.pruned_by_bound},
          {"rejected", rejected},
          {"searched", searched},
          {"not_searched", t.not_searched},
          {"wall_s", t.wall_s},
          {"interrupted", t.interrupted},
          {"certificate",
           {{"best_step_s", t.best_step.si},
            {"smallest_unexplored_bound_s", t.smallest_unexplored_bound.si > 0
                                                ? ordered_json(t.smallest_unexplored_bound.si)
                                                : ordered_json(nullptr)}}}};
}

std::string verdict_text(const PlanAnswer& a, const Scenario& s) {
  std::string out = wrapped("Verdict: " + verdict_sentence(a, s), 0);
  const Bill* bill = a.plans.empty() ? nullptr : bill_of(a.plans.front());
  if (bill == nullptr || !has_budget(s)) return out;
  out += to_text(verdict(*bill, s.budget), s.cluster.currency);

  if (!a.what_ifs.empty()) {
    out += "\nWhat would change that, the plan otherwise held\n";
    Table t{.columns = {{"", Align::Left}, {"GPU-hours"}, {"days"}, {"budget", Align::Left}}};
    for (const WhatIf& w : a.what_ifs)
      t.rows.push_back({w.change, grouped(w.bill.gpu_hours), days_text(w.bill.days),
                        w.meets ? "met" : "not met"});
    out += text(t);
  }
  return out;
}

std::string plans_text(const PlanAnswer& a, const Scenario& s) {
  Table t{.columns = {{""}, {"plan", Align::Left}, {"step"}}};
  const auto is_disturbed = [](const PlanRow& r) { return r.disturbed.has_value(); };
  const bool disturbed = std::any_of(a.plans.begin(), a.plans.end(), is_disturbed) ||
                         (a.published && is_disturbed(*a.published));
  if (disturbed) t.columns.push_back({"disturbed"});
  t.columns.push_back({"GPU-hours"});
  t.columns.push_back({"days"});
  const bool money = s.cluster.price_per_gpu_hour > 0;
  if (money) t.columns.push_back({s.cluster.currency});
  t.columns.push_back({"memory"});
  t.columns.push_back({has_budget(s) ? "budget" : "", Align::Left});
  const auto add = [&](const std::string& label, const PlanRow& r) {
    const Bill* b = bill_of(r);
    std::vector<std::string> row = {label, describe(r.plan), duration(r.prediction.step)};
    if (disturbed) row.push_back(r.disturbed ? duration(*r.disturbed) : "");
    row.push_back(b != nullptr ? grouped(b->gpu_hours) : "");
    row.push_back(b != nullptr ? days_text(b->days) : "");
    if (money) row.push_back(b != nullptr && b->money ? grouped(*b->money) : "");
    row.push_back(gibibytes(r.prediction.memory.peak));
    row.push_back(!r.fits             ? "does not fit in memory"
                  : !has_budget(s)    ? ""
                  : r.meets(s.budget) ? "met"
                                      : "not met");
    t.rows.push_back(std::move(row));
  };
  for (std::size_t i = 0; i < a.plans.size(); ++i) add(fmt::format("{}", i + 1), a.plans[i]);
  if (a.published) add("given", *a.published);
  std::string out = text(t);
  if (disturbed)
    out += wrapped(
        "disturbed: every rank simulated with the scenario's disturbances (`simulate --fidelity "
        "cluster`); plans are in its order. Bills and budget are those of the undisturbed step.");
  if (s.disturbances && !s.disturbances->dead_links.empty())
    out += wrapped("Dead links are not in these figures: see `simulate --fidelity flow`.");
  if (a.published_refused)
    out += fmt::format("  The given plan can't run: {} ({})\n", a.published_refused->why,
                       a.published_refused->detail);
  return out;
}

std::string beside_text(const PlanRow& best, const PlanRow& given) {
  Table t{.columns = {{"", Align::Left}, {"plan 1"}, {"given"}, {"difference"}}};
  const auto add = [&](const char* name, Seconds x, Seconds y) {
    if (x.si == 0 && y.si == 0) return;
    t.rows.push_back(
        {name, duration(x), duration(y), (x < y ? "-" : "+") + duration(x < y ? y - x : x - y)});
  };
  const Phases &p = best.prediction.phases, &q = given.prediction.phases;
  add("F", p.f, q.f);
  add("B", p.b, q.b);
  add("W", p.w, q.w);
  add("FB", p.fb, q.fb);
  add("bubble", p.bubble, q.bubble);
  add("optimizer", p.gradients + p.optimizer, q.gradients + q.optimizer);
  add("host", p.host, q.host);
  add("step", best.prediction.step, given.prediction.step);
  return text(t);
}

std::string search_text(const SearchStatistics& t) {
  const auto count = [](std::int64_t n) { return grouped(static_cast<double>(n)); };
  std::string out = wrapped(fmt::format(
      "{} candidates, {} feasible, {} simulated, {} cut by their bound. Memory was asked of {}: a "
      "plan that its bound cuts may not fit.",
      count(t.candidates), count(t.feasible), count(t.simulated), count(t.pruned_by_bound),
      count(t.memory_checked)));
  const bool certified = t.smallest_unexplored_bound.si > 0 || !t.interrupted;
  if (t.best_step.si > 0 && certified)
    out += wrapped(
        t.smallest_unexplored_bound.si > 0
            ? fmt::format("Certificate: the best step is {:.4f} s and no unexplored plan can take "
                          "less than {:.4f} s.",
                          t.best_step.si, t.smallest_unexplored_bound.si)
            : fmt::format("Certificate: the best step is {:.4f} s; every plan was explored.",
                          t.best_step.si));
  if (t.interrupted)
    out += wrapped(
        "Interrupted: this is the best so far, and a faster plan may exist; what was not looked at "
        "counts as cut.");
  std::vector<std::pair<std::string, std::int64_t>> reasons(t.rejected.begin(), t.rejected.end());
  std::stable_sort(reasons.begin(), reasons.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  if (!reasons.empty()) {
    Table table{.columns = {{"rejected"}, {"because", Align::Left}}};
    for (const auto& [reason, n] : reasons) table.rows.push_back({count(n), reason});
    out += text(table);
  }
  Table searched{.columns = {{"searched", Align::Left}, {"values", Align::Left}}};
  for (const Dimension& d : t.searched)
    searched.rows.push_back({d.name, fmt::format("{}", fmt::join(d.values, ", "))});
  if (!t.searched.empty()) out += text(searched);
  if (!t.not_searched.empty())
    out += wrapped(fmt::format("Not searched: {}.", fmt::join(t.not_searched, "; ")));
  return out;
}

}  // namespace

bool PlanRow::meets(const Budget& budget) const {
  const Bill* b = bill_of(*this);
  return fits && b != nullptr && verdict(*b, budget).meets;
}

bool PlanAnswer::meets(const Budget& budget) const {
  return std::any_of(plans.begin(), plans.end(), [&](const PlanRow& r) { return r.meets(budget); });
}

std::string verdict_sentence(const PlanAnswer& a, const Scenario& s) {
  if (a.plans.empty() && a.interrupted) return "interrupted before any plan was simulated.";
  if (a.plans.empty())
    return "no plan of this search space can run; the reasons are tallied below.";
  const PlanRow& best = a.plans.front();
  const Bill* bill = bill_of(best);
  if (bill == nullptr) {
    const NoBill& no = std::get<NoBill>(best.bill);
    if (a.interrupted)
      return fmt::format(
          "interrupted before phase \"{}\" had a plan, so there is no bill. Best "
          "step so far: {}.",
          no.phase, duration(best.prediction.step));
    return fmt::format("no bill. Phase \"{}\" can't run: {} ({}).", no.phase, no.why.why,
                       no.why.detail);
  }
  const std::string needs = fmt::format(
      "{} GPU-hours, {} days on {} GPUs{}", grouped(bill->gpu_hours), days_text(bill->days),
      grouped(s.cluster.gpus),
      bill->money ? fmt::format(", {} {}", grouped(*bill->money), s.cluster.currency) : "");
  if (!has_budget(s)) return fmt::format("no budget is given; the fastest plan takes {}.", needs);
  const auto meeting = std::count_if(a.plans.begin(), a.plans.end(),
                                     [&](const PlanRow& r) { return r.meets(s.budget); });
  if (meeting > 0)
    return fmt::format("THE BUDGET IS MET, by {} of the {} plans below. The fastest takes {}.",
                       meeting, a.plans.size(), needs);
  return fmt::format("NO PLAN MEETS THE BUDGET. The fastest takes {}.", needs);
}

ordered_json to_json(const PlanAnswer& a, const Scenario& s) {
  ordered_json out = {{"scenario", s.name},
                      {"phase", s.campaign[a.phase].name},
                      {"meets_budget", a.meets(s.budget)},
                      {"interrupted", a.interrupted}};
  const Bill* bill = a.plans.empty() ? nullptr : bill_of(a.plans.front());
  out["budget"] = bill != nullptr ? to_json(verdict(*bill, s.budget)) : nullptr;
  out["what_if"] = ordered_json::array();
  for (const WhatIf& w : a.what_ifs)
    out["what_if"].push_back({{"change", w.change},
                              {"gpu_hours", w.bill.gpu_hours},
                              {"days", w.bill.days},
                              {"meets_budget", w.meets}});
  out["plans"] = ordered_json::array();
  for (const PlanRow& r : a.plans) out["plans"].push_back(row_json(r, s));
  out["given"] = a.published ? row_json(*a.published, s) : nullptr;
  if (a.published_refused)
    out["given_refused"] = {{"reason", a.published_refused->why},
                            {"detail", a.published_refused->detail}};
  out["pareto"] = ordered_json::array();
  for (const PlanRow& r : a.pareto) out["pareto"].push_back(row_json(r, s));
  if (a.use) {
    const PlanRow& best = a.plans.front();
    out["best"] = to_json(StepAnswer{.plan = best.plan,
                                     .prediction = best.prediction,
                                     .step = step_shape(s.campaign[a.phase]),
                                     .use = *a.use,
                                     .memory_limit = memory_limit(s)});
  }
  out["campaign"] = bill != nullptr ? to_json(*bill) : nullptr;
  out["search"] = statistics_json(a.statistics);
  return out;
}

std::string to_text(const PlanAnswer& a, const Scenario& s) {
  const StepShape step = step_shape(s.campaign[a.phase]);
  std::string out = headline(s, step) + "\n\n" + verdict_text(a, s);
  if (!a.plans.empty() || a.published || a.published_refused)
    out += "\nPlans, fastest first\n" + plans_text(a, s);
  if (a.use) {
    const PlanRow& best = a.plans.front();
    out += "\nPlan 1 in full\n";
    out += to_text(StepAnswer{.plan = best.plan,
                              .prediction = best.prediction,
                              .step = step,
                              .use = *a.use,
                              .memory_limit = memory_limit(s)});
    if (a.published) out += "\nPhases beside the given plan\n" + beside_text(best, *a.published);
    if (const Bill* bill = bill_of(best))
      out += "\nCampaign with plan 1\n" + to_text(*bill, s.cluster.currency);
  }
  out += "\nSearch\n" + search_text(a.statistics);
  return out;
}

}  // namespace reckon::plan
