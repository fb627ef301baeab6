// The fingerprint of the model: what each shipped scenario's own plan takes, to the tick. A change
// of lowering, costs or engine shows as a diff of data/golden_steps.txt, to be read in review.
// Rewrite: planner-tests "[update-golden]"
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "planner/predict.h"
#include "planner/scenario_json.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

const std::string kRoot = RECKON_SOURCE_DIR;
const std::string kGolden = kRoot + "/tests/planner/data/golden_steps.txt";

std::string fingerprint() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(kRoot + "/scenarios"))
    if (entry.path().extension() == ".json" && entry.path().stem() != "scenario.schema")
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::string text =
      "# picoseconds of the slowest rank, bytes at the peak of each stage's fullest rank\n";
  for (const auto& file : files) {
    const Scenario s = read_scenario(file.string());
    if (!s.plan) continue;
    const PhaseOfCampaign& phase = s.campaign.front();
    Predictor predictor(s.model, s.cluster, s.stack);
    const auto run = predictor.run(*s.plan, {phase.seq, phase.global_batch});
    text += fmt::format("{:40} {:>16} ps", file.stem().string(), run.folded.end.ps);
    text += fmt::format(" {:>14.0f} bytes\n", run.prediction.memory.peak.si);
  }
  return text;
}

}  // namespace

TEST_CASE("write the golden steps", "[.][update-golden]") {
  std::ofstream(kGolden) << fingerprint();
}

TEST_CASE("shipped scenarios take what they took, to the tick") {
  std::ifstream in(kGolden);
  std::ostringstream golden;
  golden << in.rdbuf();
  CHECK(golden.str() == fingerprint());  // meant to change? planner-tests "[update-golden]"
}
