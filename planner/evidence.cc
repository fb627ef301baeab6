#include "planner/evidence.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "planner/embedded.h"
#include "planner/run_case.h"
#include "sim/check.h"

namespace reckon::plan {
namespace {

using nlohmann::ordered_json;

double distance(const EvidenceRow& r, const RunTraits& q) {
  return std::abs(std::log(r.parameters / q.parameters)) +
         std::abs(std::log(static_cast<double>(r.gpus) / q.gpus));
}

// The nearest row of each source, nearest first; ties in the order of the file.
std::vector<EvidenceRow> nearest(std::vector<EvidenceRow> rows, const RunTraits& q) {
  std::stable_sort(rows.begin(), rows.end(), [&](const EvidenceRow& a, const EvidenceRow& b) {
    return distance(a, q) < distance(b, q);
  });
  std::set<std::string> sources;
  std::erase_if(rows, [&](const EvidenceRow& r) { return !sources.insert(r.source).second; });
  return rows;
}

double rounded(double x) {  // six digits
  return std::stod(fmt::format("{:.6g}", x));
}

}  // namespace

RunTraits run_traits(const Scenario& s) {
  return {.gpu = s.cluster.gpu.name,
          .architecture = s.cluster.gpu.architecture,
          .stack = s.stack.name,
          .mixture = s.model.moe.has_value(),
          .parameters = static_cast<double>(activated_parameters(s.model)),
          .gpus = s.cluster.gpus};
}

SimilarRuns similar_runs(const std::vector<EvidenceRow>& rows, const RunTraits& q) {
  if (q.architecture == "cpu") return {};  // no published run is on CPUs
  const std::string kind = q.mixture ? "mixtures of experts" : "dense models";
  struct Class {
    std::string words;
    bool same_class, same_stack, same_gpu;
  };
  const Class classes[] = {
      {fmt::format("{} on {} with software {}", kind, q.gpu, q.stack), true, true, true},
      {fmt::format("{} on {}, any software", kind, q.gpu), true, false, true},
      {fmt::format("{} with software {}, any GPU", kind, q.stack), true, true, false},
      {fmt::format("{}, any software and GPU", kind), true, false, false},
      {"any model, software and GPU", false, false, false},
  };
  for (const Class& c : classes) {
    std::vector<EvidenceRow> alike;
    for (const EvidenceRow& r : rows)
      if ((!c.same_class || r.mixture == q.mixture) && (!c.same_stack || r.stack == q.stack) &&
          (!c.same_gpu || r.gpu == q.gpu))
        alike.push_back(r);
    alike = nearest(std::move(alike), q);
    if (alike.size() < kFewest) continue;
    if (alike.size() > kMost) alike.resize(kMost);
    return {c.words, std::move(alike)};
  }
  return {};
}

std::optional<Interval> interval(const std::vector<EvidenceRow>& rows) {
  const std::size_t n = rows.size();
  if (n < kFewest) return std::nullopt;
  std::vector<double> ratios;
  for (const EvidenceRow& r : rows) ratios.push_back(r.ratio());
  std::sort(ratios.begin(), ratios.end());
  const std::size_t tail = (n + 1) / 10;  // from either end, counted from 1
  return Interval{.low = ratios[tail - 1], .high = ratios[n - tail]};
}

std::string evidence_json(const std::vector<PublishedRun>& runs, const Backtest& backtest) {
  check(runs.size() == backtest.rows.size(), "one row of the backtest per published run");
  std::string out =
      "{\n\"about\": \"Predicted and measured steps of published runs, each predicted with "
      "constants "
      "fitted without its source. Written by: reckon backtest "
      "tests/planner/data/published_runs.json --cross-validate --evidence "
      "planner/catalog/published_errors.json. That file has the sources in full.\",\n"
      "\"columns\": [\"source\", \"model\", \"gpu\", \"stack\", \"mixture\", \"parameters\", "
      "\"gpus\", "
      "\"measured_s\", \"predicted_s\"],\n\"rows\": [";
  const char* separator = "\n";
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const BacktestRow& row = backtest.rows[i];
    if (!row.left_out_s) continue;
    const auto built = run_case(runs[i]);
    const RunCase& c = std::get<RunCase>(built);
    const ordered_json line = {row.source,
                               c.model.name,
                               row.gpu,
                               row.stack,
                               c.model.moe.has_value(),
                               rounded(static_cast<double>(activated_parameters(c.model))),
                               c.cluster.gpus,
                               rounded(row.measured_s),
                               rounded(*row.left_out_s)};
    out += separator + line.dump();
    separator = ",\n";
  }
  return out + "\n]}\n";
}

std::vector<EvidenceRow> evidence_from_json(const nlohmann::json& file) {
  std::vector<EvidenceRow> out;
  for (const auto& r : file.at("rows"))
    out.push_back({.source = r.at(0),
                   .model = r.at(1),
                   .gpu = r.at(2),
                   .stack = r.at(3),
                   .mixture = r.at(4),
                   .parameters = r.at(5),
                   .gpus = r.at(6),
                   .measured_s = r.at(7),
                   .predicted_s = r.at(8)});
  return out;
}

const std::vector<EvidenceRow>& evidence() {
  static const std::vector<EvidenceRow> rows = [] {
    const auto& files = embedded_files();
    const auto it = std::find_if(files.begin(), files.end(), [](const hw::EmbeddedFile& f) {
      return f.name == "published_errors.json";
    });
    check(it != files.end(), "the catalogue has the errors on published runs");
    return evidence_from_json(nlohmann::json::parse(it->text));
  }();
  return rows;
}

ordered_json evidence_figure(const Scenario& s) {
  const SimilarRuns similar = similar_runs(evidence(), run_traits(s));
  ordered_json rows = ordered_json::array();
  for (const EvidenceRow& r : similar.rows)
    rows.push_back({{"source", r.source},
                    {"model", r.model},
                    {"gpu", r.gpu},
                    {"stack", r.stack},
                    {"gpus", r.gpus},
                    {"measured_s", r.measured_s},
                    {"predicted_s", r.predicted_s},
                    {"error", r.predicted_s / r.measured_s - 1}});
  const auto range = interval(similar.rows);
  return {{"alike", similar.alike},
          {"all_runs", evidence().size()},
          {"interval", range ? ordered_json{range->low, range->high} : ordered_json(nullptr)},
          {"rows", rows}};
}

}  // namespace reckon::plan
