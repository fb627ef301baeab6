#include <fmt/format.h>

#include "planner/flow.h"
#include "planner/table.h"

namespace reckon::plan {

namespace {

std::string bytes_text(Bytes b) {
  if (b.si <= 0) return "-";
  if (b >= 1 * GB) return fmt::format("{:.2f} GB", b / GB);
  if (b >= 1 * MB) return fmt::format("{:.1f} MB", b / MB);
  if (b >= 1 * kB) return fmt::format("{:.1f} kB", b / kB);
  return fmt::format("{:.0f} B", b / byte);
}

}  // namespace

ordered_json to_json(const FlowAnswer& a) {
  ordered_json phases = ordered_json::array(), layers = ordered_json::array();
  for (const FlowPhase& p : a.phases)
    phases.push_back({{"ops", p.labels},
                      {"groups", p.groups},
                      {"flows", p.flows},
                      {"runs", p.runs},
                      {"network_bytes", p.sent.network.si},
                      {"inside_bytes", p.sent.inside.si},
                      {"ideal_s", p.ideal.si},
                      {"flow_s", p.flow.si},
                      {"network_slow_down", p.slow_down.network},
                      {"inside_slow_down", p.slow_down.inside},
                      {"bottleneck", p.bottleneck}});
  for (const FlowAnswer::Layer& l : a.layers)
    layers.push_back(
        {{"name", l.name}, {"bytes", l.carried.si}, {"mean_use", l.mean}, {"busiest_use", l.most}});
  return {{"solver", a.solver},
          {"step_s", a.step.si},
          {"folded_step_s", a.folded.si},
          {"uncongested_step_s", a.ideal.si},
          {"intact_step_s", a.intact.si > 0 ? ordered_json(a.intact.si) : ordered_json()},
          {"not_placed", a.unplaced},
          {"phases", phases},
          {"layers", layers}};
}

std::string to_text(const FlowAnswer& a) {
  std::string out = fmt::format(
      "Flows: the step takes {}, {}{} on the {} of links that nobody shares; folded says {}\n",
      duration(a.step), a.step < a.ideal ? "" : "+", percent(a.step / a.ideal - 1),
      duration(a.ideal), duration(a.folded));
  if (a.intact.si > 0)
    out += wrapped(fmt::format("Of which {}{} for the dead links: with all of them it takes {}.",
                               a.step < a.intact ? "" : "+", duration(a.step - a.intact),
                               duration(a.intact)));
  out += wrapped(fmt::format("Every exchange of all groups at once, on the topology{}.",
                             a.solver == "SimGrid" ? ", in SimGrid" : ""));
  Table table{.columns = {{"exchange", Align::Left},
                          {"groups", Align::Left},
                          {"runs"},
                          {"over NIC"},
                          {"NVLink"},
                          {"ideal"},
                          {"flow"},
                          {"slow-down"},
                          {"bottleneck", Align::Left}}};
  double hidden = 0;
  Seconds all;
  for (const FlowPhase& p : a.phases) all += p.runs * p.flow;
  for (const FlowPhase& p : a.phases) {
    // Too small to matter, in a table for people.
    if (p.runs * p.flow < 1e-3 * all && p.flow <= 1.5 * p.ideal) {
      ++hidden;
      continue;
    }
    table.rows.push_back({p.labels, p.groups, fmt::format("{:.0f}", p.runs),
                          bytes_text(p.sent.network), bytes_text(p.sent.inside), duration(p.ideal),
                          duration(p.flow), fmt::format("{:.2f}", p.flow / p.ideal), p.bottleneck});
  }
  out += text(table);
  if (hidden > 0)
    out += wrapped(fmt::format("{:.0f} more take less than 0.1 % of the exchanges' time.", hidden));
  if (!a.unplaced.empty())
    out += wrapped(fmt::format("Not as flows, since it is not known where their groups lie: {}.",
                               fmt::join(a.unplaced, "; ")));
  Table layers{
      .columns = {{"links, over the step", Align::Left}, {"carried"}, {"mean use"}, {"busiest"}}};
  for (const FlowAnswer::Layer& l : a.layers)
    layers.rows.push_back(
        {l.name,
         l.carried >= 1 * TB ? fmt::format("{:.1f} TB", l.carried / TB) : bytes_text(l.carried),
         percent(l.mean), percent(l.most)});
  return out + "\n" + text(layers);
}

}  // namespace reckon::plan
