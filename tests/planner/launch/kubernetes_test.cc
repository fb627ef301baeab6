// Manifests of random plans have the structure that their APIs define, and start as many processes
// as the plan has ranks.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "hw-models/strict_json.h"
#include "planner/launch/frameworks.h"
#include "planner/launch/launchers.h"
#include "tests/planner/launch/random_plans.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::plan::launch;
using nlohmann::json;

namespace {

class ApiSchema {
 public:
  ApiSchema()
      : text_(hw::read_json_file(RECKON_SOURCE_DIR
                                 "/tests/planner/launch/data/kubernetes_schema.json")
                  .root) {
    valijson::SchemaParser parser(valijson::SchemaParser::kDraft7);
    parser.populateSchema(valijson::adapters::NlohmannJsonAdapter(text_), schema_);
  }
  bool valid(const json& manifest) {
    valijson::Validator validator;
    return validator.validate(schema_, valijson::adapters::NlohmannJsonAdapter(manifest), nullptr);
  }

 private:
  json text_;
  valijson::Schema schema_;
};

// One job for each framework that Kubernetes starts, of each of a few random plans.
template <class Check>
void for_each_job(int count, Check check) {
  test::RandomPlans plans(7);
  for (Framework framework : {Framework::Megatron, Framework::MegatronBridge, Framework::Torchtitan,
                              Framework::DeepSpeed}) {
    const Target target{.framework = framework, .release = std::nullopt};
    for (int found = 0, drawn = 0; found < count; ++drawn) {
      REQUIRE(drawn < 300000);
      Job job = plans.next();
      set_own_switches(target, job.plan);
      job.plan = canonical(job.plan, job.model);
      if (why_illegal(job.model, job.cluster, job.stack, job.plan, job.step)) continue;
      if (Judge(target, job.model).objection(job.question()) != nullptr) continue;
      ++found;
      check(job, program_of(target, job));
    }
  }
}

}  // namespace

TEST_CASE("Kubernetes manifests have the fields that their APIs require and no others") {
  ApiSchema schema;
  for_each_job(6, [&](const Job& job, const Program& program) {
    const int ranks = world_size(job.plan);
    json set = json::parse(launcher_files(Launcher::JobSet, job, program, {})[0].text);
    CAPTURE(set.dump());
    CHECK(schema.valid(set));
    const json& workers = set["spec"]["replicatedJobs"][0];
    CHECK(set["spec"]["coordinator"]["replicatedJob"] == workers["name"]);
    const json& spec = workers["template"]["spec"];
    CHECK(spec["completions"] == spec["parallelism"]);  // all pods at once
    const json& container = spec["template"]["spec"]["containers"][0];
    int per_node = 0;
    for (const json& variable : container["env"])
      if (variable["name"] == "PET_NPROC_PER_NODE")
        per_node = std::stoi(variable["value"].get<std::string>());
    CHECK(spec["completions"].get<int>() * per_node == ranks);

    json train = json::parse(launcher_files(Launcher::TrainJob, job, program, {})[0].text);
    CAPTURE(train.dump());
    CHECK(schema.valid(train));
    const json& trainer = train["spec"]["trainer"];
    CHECK(trainer["numNodes"].get<int>() * trainer["numProcPerNode"].get<int>() == ranks);

    // The schema finds what it is there to find.
    json broken = set;
    broken["spec"]["replicatedJobs"][0].erase("template");
    CHECK_FALSE(schema.valid(broken));
    broken = set;
    broken["apiVersion"] = "jobset.x-k8s.io/v1";
    CHECK_FALSE(schema.valid(broken));
    broken = train;
    broken["spec"].erase("runtimeRef");
    CHECK_FALSE(schema.valid(broken));
    broken = train;
    broken["spec"]["trainer"]["numNode"] = 1;
    CHECK_FALSE(schema.valid(broken));
  });
}
