// The program from outside.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

const std::string kScenarios = RECKON_SOURCE "/scenarios/";

// A folder that lives as long as the test.
struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "reckon-cli-test-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

// Runs `reckon ARGUMENTS` through the shell.
Outcome reckon(const std::string& arguments) {
  const Folder temporary;
  const std::filesystem::path& folder = temporary.path;
  const std::string command = std::string("'") + RECKON_PROGRAM + "' " + arguments + " >" +
                              (folder / "out").string() + " 2>" + (folder / "err").string() +
                              " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(folder / "out"),
          contents(folder / "err")};
}

}  // namespace

TEST_CASE("help and version are answers on stdout") {
  const Outcome help = reckon("--help");
  CHECK(help.code == 0);
  CHECK(help.out.find("doctor") != std::string::npos);
  CHECK(help.err.empty());
  const Outcome version = reckon("--version");
  CHECK(version.code == 0);
  CHECK(version.out.rfind("reckon ", 0) == 0);
}

TEST_CASE("a wrong command line exits 2, says why on stderr and nothing on stdout") {
  for (const char* arguments :
       {"", "sale", "doctor --threads 0", "doctor --threads two", "doctor --jsn", "doctor extra"}) {
    CAPTURE(arguments);
    const Outcome o = reckon(arguments);
    CHECK(o.code == 2);
    CHECK(o.out.empty());
    CHECK(o.err.rfind("reckon: ", 0) == 0);
  }
}

TEST_CASE("a misspelt command is told the nearest") {
  CHECK(reckon("--json docter").err.find("did you mean 'doctor'?") != std::string::npos);
}

TEST_CASE("simulate answers with the keys that other programs read, in both forms") {
  const std::string scenario = kScenarios + "deepseek-v3-2048-h800.json";
  const Outcome o = reckon("simulate --json " + scenario);
  CHECK(o.code != 2);
  CHECK(o.err.empty());
  const auto json = nlohmann::json::parse(o.out);
  double sum = 0;
  for (const char* phase : {"F", "B", "W", "FB", "bubble", "optimizer"})
    CHECK(json["phases_s"].contains(phase));
  for (const auto& part : json["phases_s"]) sum += part.get<double>();
  CHECK(sum == Approx(json["step_s"].get<double>()));
  for (const char* key : {"mfu", "peak_memory_GiB", "tokens_per_day", "campaign", "fits"})
    CHECK(json.contains(key));
  CHECK(json["mfu"]["full"] > json["mfu"]["causal"]);

  const Outcome table = reckon("simulate " + scenario);
  CHECK(table.code == o.code);
  char step[32];
  std::snprintf(step, sizeof step, "Step %.2f s", json["step_s"].get<double>());
  CHECK(table.out.find(step) != std::string::npos);
  CHECK(reckon("simulate --json --threads 1 " + scenario).out == o.out);
}

TEST_CASE("every shipped scenario with a plan can be simulated") {
  int simulated = 0;
  for (const auto& file : std::filesystem::directory_iterator(kScenarios)) {
    if (file.path().extension() != ".json" || file.path().stem().extension() == ".schema") continue;
    CAPTURE(file.path().string());
    const Outcome o = reckon("simulate --json " + file.path().string());
    CHECK(o.code != 2);
    CHECK(nlohmann::json::parse(o.out)["step_s"] > 0);
    ++simulated;
  }
  CHECK(simulated >= 9);
}

TEST_CASE(
    "plan answers the same bytes with any number of threads, and writes a plan that simulates") {
  Folder folder;
  const std::string scenario = kScenarios + "gpt3-175b-1024-a100.json";
  const std::string best = (folder.path / "best.json").string();
  const Outcome one = reckon("plan --json --threads 1 " + scenario + " --output " + best);
  const Outcome two = reckon("plan --json --threads 2 " + scenario);
  REQUIRE(one.code == two.code);
  CHECK(one.err.empty());
  auto json = nlohmann::json::parse(one.out), other = nlohmann::json::parse(two.out);
  for (auto* j : {&json, &other}) (*j)["search"].erase("wall_s");
  CHECK(json.dump() == other.dump());
  CHECK(reckon("plan --threads 1 " + scenario).out == reckon("plan --threads 2 " + scenario).out);

  for (const char* key : {"candidates", "feasible", "simulated", "pruned_by_bound", "rejected"})
    CHECK(json["search"].contains(key));
  CHECK(json["search"]["certificate"]["best_step_s"] == json["plans"][0]["step_s"]);
  CHECK(json["campaign"]["gpu_hours"] == json["plans"][0]["gpu_hours"]);
  REQUIRE(json["plans"].size() > 1);
  for (std::size_t i = 0; i < json["plans"].size(); ++i) {
    const auto& row = json["plans"][i];
    CHECK(row["meets_budget"] == (row["days"] <= 34.0));
    if (i > 0) CHECK(row["step_s"] >= json["plans"][i - 1]["step_s"]);
  }
  CHECK(one.code == (json["meets_budget"] ? 0 : 1));

  const Outcome again = reckon("simulate --json " + scenario + " --plan " + best);
  CHECK(again.code == 0);
  CHECK(nlohmann::json::parse(again.out)["step_s"] == json["plans"][0]["step_s"]);
}

TEST_CASE("every tiny question has an answer: the CPU scenario finds its own plan or better") {
  const auto json =
      nlohmann::json::parse(reckon("plan --json " + kScenarios + "tiny-moe-2-cpu.json").out);
  REQUIRE(json["plans"].size() > 0);
  CHECK(json["plans"][0]["step_s"] <= json["given"]["step_s"]);
}

TEST_CASE("a plan that can't run is an answer with the reason") {
  Folder folder;
  std::ofstream(folder.path / "plan.json") << R"({"tp": 1, "pp": 16, "dp": 128, "ep": 63,
    "micro_batch": 1, "schedule": "DualPipe", "recompute": {"mode": "none"},
    "precision": "fp8-deepseek", "zero": "optimizer"})";
  const Outcome o = reckon("simulate " + kScenarios + "deepseek-v3-2048-h800.json --plan " +
                           (folder.path / "plan.json").string());
  CHECK(o.code == 2);  // 63 does not divide the stage's ranks: such a plan means nothing
  CHECK(o.err.find("plan.json") != std::string::npos);

  std::ofstream(folder.path / "plan.json") << R"({"tp": 1, "pp": 16, "dp": 128, "ep": 64,
    "micro_batch": 7, "schedule": "DualPipe", "recompute": {"mode": "none"},
    "precision": "fp8-deepseek", "zero": "optimizer"})";
  const Outcome no = reckon("simulate " + kScenarios + "deepseek-v3-2048-h800.json --plan " +
                            (folder.path / "plan.json").string());
  CHECK(no.code == 1);
  CHECK(no.out.find("The plan can't run: ") != std::string::npos);
}

TEST_CASE("a trace is written whole") {
  Folder folder;
  const std::string trace = (folder.path / "trace.json").string();
  CHECK(reckon("simulate " + kScenarios + "tiny-moe-2-cpu.json --trace " + trace).code != 2);
  const auto json = nlohmann::json::parse(contents(trace));
  CHECK(json["traceEvents"].size() > 100);
  const Outcome o = reckon("simulate " + kScenarios + "tiny-moe-2-cpu.json --trace " +
                           (folder.path / "none/trace.json").string());
  CHECK(o.code == 2);
  CHECK(o.err.find("trace.json") != std::string::npos);
}

TEST_CASE("wrong inputs of all sorts exit 2 and name the place") {
  Folder folder;
  const auto file = [&](const char* text) {
    std::ofstream(folder.path / "in.json") << text;
    return (folder.path / "in.json").string();
  };
  for (const char* command : {"plan", "simulate", "import", "backtest"}) {
    for (const char* text : {"", "{", "[]", "null", "{\"modle\": 1}", "{\"a\": 1e999}"}) {
      CAPTURE(command, text);
      const Outcome o = reckon(std::string(command) + " " + file(text));
      CHECK(o.code == 2);
      CHECK(o.out.empty());
      CHECK(o.err.find("in.json:1") != std::string::npos);
    }
    const Outcome missing = reckon(std::string(command) + " /none/such.json");
    CHECK(missing.code == 2);
    CHECK(missing.err.find("/none/such.json") != std::string::npos);
    CHECK(reckon(std::string(command) + " " + folder.path.string()).code == 2);
  }
  const Outcome phase =
      reckon("simulate " + kScenarios + "deepseek-v3-2048-h800.json --phase pretraining");
  CHECK(phase.code == 2);
  CHECK(phase.err.find("did you mean \"pre-training\"?") != std::string::npos);
}

TEST_CASE("a result that can't be written is an error") {
  const int status = std::system(("'" RECKON_PROGRAM "' simulate --json " + kScenarios +
                                  "tiny-moe-2-cpu.json >/dev/full 2>/dev/null")
                                     .c_str());
  CHECK(WEXITSTATUS(status) == 2);
}

TEST_CASE("import prints a model that a scenario accepts, and its parameters") {
  Folder folder;
  // Mixtral-8x7B's config.json, the keys that shape it: 46.7B parameters, 12.9B activated (Mixtral
  // paper, arXiv 2401.04088).
  const std::string config = (folder.path / "config.json").string();
  std::ofstream(config) << R"({"model_type": "mixtral", "hidden_size": 4096,
    "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "num_hidden_layers": 32, "num_experts_per_tok": 2, "num_local_experts": 8,
    "vocab_size": 32000, "tie_word_embeddings": false, "max_position_embeddings": 32768,
    "sliding_window": null, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
    "hidden_act": "silu"})";
  const Outcome o = reckon("import " + config + " --json");
  REQUIRE(o.code == 0);
  const auto json = nlohmann::json::parse(o.out);
  CHECK(json["parameters"]["total"].get<double>() == Approx(46.7e9).epsilon(0.005));
  CHECK(json["parameters"]["activated"].get<double>() == Approx(12.9e9).epsilon(0.005));

  auto scenario = nlohmann::json::parse(contents(kScenarios + "mixtral-8x22b-128-h100.json"));
  scenario["model"] = nlohmann::json::parse(reckon("import " + config).out);
  scenario.erase("plan");
  const std::string changed = (folder.path / "scenario.json").string();
  std::ofstream(changed) << scenario;
  const Outcome read = reckon("simulate " + changed);
  CHECK(read.err.find("no /plan") != std::string::npos);  // the model itself was accepted
}

TEST_CASE("schema is JSON") {
  const Outcome o = reckon("schema");
  CHECK(o.code == 0);
  CHECK(nlohmann::json::parse(o.out).contains("properties"));
}

TEST_CASE("doctor finds the compiler or cmake that built this, and --json says the same") {
  const Outcome table = reckon("doctor");
  CHECK(table.code == 0);
  CHECK(table.err.empty());
  const Outcome o = reckon("doctor --json");
  REQUIRE(o.code == 0);
  const auto json = nlohmann::json::parse(o.out);
  CHECK(json["cores"] > 0);
  CHECK(json["memory_GiB"] > 0);
  int found = 0;
  for (const auto& tool : json["tools"])
    if (tool["found"]) {
      ++found;
      CHECK(table.out.find(tool["version"].get<std::string>()) != std::string::npos);
    }
  CHECK(found > 0);
}

TEST_CASE("data turns text into token files, and says what is wrong with its options") {
  const Folder folder;
  const std::string text = (folder.path / "a.txt").string(), name = (folder.path / "a").string();
  std::ofstream(text) << "abc abc abc\n";
  const Outcome bytes = reckon("data " + name + " --text " + text + " --json");
  CHECK(bytes.code == 0);
  const auto json = nlohmann::json::parse(bytes.out);
  CHECK(json.at("tokens") == 13);
  CHECK(json.at("vocabulary") == 257);
  const Outcome bpe = reckon("data " + name + "2 --bpe 260 --text " + text + " " + text);
  CHECK(bpe.code == 0);
  CHECK(bpe.out.find("a2.tokens: 10 tokens of 2 documents") != std::string::npos);
  CHECK(bpe.err.empty());
  const Outcome again =
      reckon("data " + name + "3 --text " + text + " --tokenizer " + name + "2.vocab");
  CHECK(again.code == 0);
  CHECK(contents(name + "3.vocab") == contents(name + "2.vocab"));
  for (const std::string& wrong :
       {"--bpe 300 --bytes --text " + text, "--text " + text + "x", "--bpe 5 --text " + text,
        "--tokenizer " + text + " --text " + text, std::string()}) {
    const Outcome out = reckon("data " + name + "4 " + wrong);
    INFO(wrong << ": " << out.err);
    CHECK(out.code == 2);
    CHECK(out.out.empty());
    CHECK(out.err.rfind("reckon: ", 0) == 0);
  }
  CHECK(reckon("data /nowhere/x --text " + text).code == 2);
}

TEST_CASE("reckon topology: the network, what it costs, traffic on it, a picture") {
  const Folder folder;
  const std::string picture = (folder.path / "t.svg").string();
  const Outcome text =
      reckon("topology " + kScenarios + "deepseek-v3-2048-h800.json --svg " + picture);
  CHECK(text.code == 0);
  CHECK(text.err.empty());
  CHECK(text.out.find("2-layer fat-tree, multi-plane") != std::string::npos);
  CHECK(contents(picture).rfind("<svg", 0) == 0);
  const Outcome json = reckon("topology --json --all-to-all --group 16 --spread 0.1 " + kScenarios +
                              "deepseek-v3-2048-h800.json");
  REQUIRE(json.code == 0);
  const auto answer = nlohmann::json::parse(json.out);
  CHECK(answer["switches"]["leaf switches"] == 64);
  CHECK(answer["bisection_share"] == 1.0);
  CHECK(answer["all_to_all"]["flows"] == 2048 * 15);
  CHECK(reckon("topology " + kScenarios + "llama3-405b-16k-h100.json").code == 2);
  CHECK(reckon("topology --all-to-all --group 100 " + kScenarios + "deepseek-v3-2048-h800.json")
            .code == 2);
  CHECK(reckon("topology --all-to-all --message 5 " + kScenarios + "deepseek-v3-2048-h800.json")
            .code == 2);
}

TEST_CASE("reckon simulate --fidelity cluster: every rank, with the scenario's disturbances") {
  const std::string scenario = kScenarios + "deepseek-v3-2048-h800.json";
  const Outcome one = reckon("simulate --fidelity cluster --seed 5 --json " + scenario);
  REQUIRE(one.code == 0);
  const auto answer = nlohmann::json::parse(one.out)["cluster"];
  CHECK(answer["ranks"] == 2048);
  CHECK(answer["seed"] == 5);
  CHECK(answer["step_s"] != answer["undisturbed_step_s"]);
  CHECK(reckon("simulate --fidelity cluster --seed 5 --json " + scenario).out == one.out);
  CHECK(reckon("simulate --fidelity cluster --seed 6 --json " + scenario).out != one.out);
  // A scenario without disturbances: as folded.
  const Outcome plain =
      reckon("simulate --fidelity cluster --json " + kScenarios + "gpt3-175b-1024-a100.json");
  const auto same = nlohmann::json::parse(plain.out)["cluster"];
  CHECK(same["step_s"] == same["undisturbed_step_s"]);
  CHECK(reckon("simulate --fidelity exact " + scenario).code == 2);
}

TEST_CASE("failures that a scenario states are in its bill") {
  const Outcome out = reckon("simulate --json " + kScenarios + "llama3-405b-16k-h100.json");
  REQUIRE(out.code == 0);
  const auto campaign = nlohmann::json::parse(out.out)["campaign"];
  CHECK(campaign["phases"].back()["name"] == "failures");
  CHECK(campaign["failures"]["effective_training_time"] > 0.9);
  CHECK(campaign["days"] == campaign["failures"]["budgeted_days"]);
}
