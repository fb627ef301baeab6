// scenarios/scenario.schema.json is generated from the tables that read scenarios. After a change
// of a table or of the catalogue's names:  planner-tests "[update-schema]"
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "hw-models/strict_json.h"
#include "planner/scenario_schema.h"

using namespace reckon;

namespace {

const std::filesystem::path kScenarios = RECKON_SOURCE_DIR "/scenarios";
const std::filesystem::path kSchema = kScenarios / "scenario.schema.json";

std::string generated() {
  return plan::scenario_schema().dump(1) + "\n";
}

}  // namespace

TEST_CASE("write the schema", "[.][update-schema]") {
  std::ofstream(kSchema) << generated();
}

TEST_CASE("the published schema is the one that the reader's tables give") {
  std::ifstream in(kSchema);
  std::ostringstream published;
  published << in.rdbuf();
  CHECK((published.str() == generated()));  // if not: planner-tests "[update-schema]"
}

TEST_CASE("every shipped scenario is valid under the published schema, and typos are not") {
  using valijson::adapters::NlohmannJsonAdapter;
  const nlohmann::json schema_text = hw::read_json_file(kSchema.string()).root;
  valijson::Schema schema;
  valijson::SchemaParser parser(valijson::SchemaParser::kDraft7);
  parser.populateSchema(NlohmannJsonAdapter(schema_text), schema);
  const auto valid = [&](const nlohmann::json& j) {
    valijson::Validator validator;
    return validator.validate(schema, NlohmannJsonAdapter(j), nullptr);
  };
  int scenarios = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kScenarios)) {
    if (entry.path() == kSchema || entry.path().extension() != ".json") continue;
    INFO(entry.path());
    nlohmann::json j = hw::read_json_file(entry.path().string()).root;
    CHECK(valid(j));
    ++scenarios;
    const auto broken = [&](const char* pointer, const nlohmann::json& value) {
      nlohmann::json b = j;
      b[nlohmann::json::json_pointer(pointer)] = value;
      return !valid(b);
    };
    CHECK(broken("/plann", 1));
    CHECK(broken("/cluster", "h800-2047"));
    CHECK(broken("/plan/tp", 0));
    CHECK(broken("/plan/schedule", "1f1b"));
    CHECK(broken("/campaign/0/seq", "4096"));
    CHECK(broken("/budget/days", 60));
    CHECK(broken("/cluster", {{"base", "dgx-h100"}, {"gpus", 8}, {"nodes", 1}}));
  }
  CHECK(scenarios >= 9);
}
