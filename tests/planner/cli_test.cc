// The program from outside.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/planner/program.h"

using namespace reckon_test;

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

TEST_CASE("reckon simulate --fidelity flow: every exchange on the network, kept on disk") {
  const Folder folder;
  const std::string cache = (folder.path / "cache").string();
  const std::string ask = "simulate --json --fidelity flow " + kScenarios;
  const std::string mixtral = ask + "mixtral-8x22b-128-h100.json";
  const auto solved_of = [](const Outcome& o) {
    CHECK(o.code == 0);
    const auto at = o.err.find("reckon: ");
    REQUIRE(at != std::string::npos);
    return std::stoi(o.err.substr(at + 8));
  };
  const Outcome first = reckon(mixtral + " --cache " + cache);
  const int solved = solved_of(first);
  CHECK(solved > 0);
  const Outcome again = reckon(mixtral + " --cache " + cache);
  CHECK(solved_of(again) == 0);
  CHECK(again.out == first.out);
  // Damaged entries are solved again; a folder that can't be written is a remark.
  for (const auto& entry : std::filesystem::directory_iterator(cache))
    std::filesystem::resize_file(entry.path(), 30);
  const Outcome mended = reckon(mixtral + " --cache " + cache);
  CHECK(solved_of(mended) == solved);
  CHECK(mended.out == first.out);
  const Outcome unkept = reckon(mixtral + " --cache /proc/none");
  CHECK(solved_of(unkept) == solved);
  CHECK(unkept.out == first.out);
  CHECK(unkept.err.find("/proc/none") != std::string::npos);

  CHECK(reckon(ask + "llama3-405b-16k-h100.json").err.find("topology") != std::string::npos);
  CHECK(reckon("simulate --nodes scattered " + kScenarios + "mixtral-8x22b-128-h100.json").code ==
        2);
}

TEST_CASE("networks given link by link or by a platform file, whole and wrong") {
  const Folder folder;
  nlohmann::json s = nlohmann::json::parse(contents(kScenarios + "mixtral-8x22b-128-h100.json"));
  s.erase("$schema");
  const auto ask = [&](const nlohmann::json& topology, const nlohmann::json& dead) {
    s["cluster"] = {{"base", "dgx-h100"},
                    {"gpus", 128},
                    {"fabric", {{"base", "ib-ndr400"}, {"topology", topology}}}};
    s["disturbances"] = {{"dead_links", dead}};
    std::ofstream(folder.path / "s.json") << s;
    return reckon("simulate --no-cache --fidelity flow " + (folder.path / "s.json").string());
  };
  const auto refused = [](const Outcome& o, const char* what) {
    CAPTURE(o.err);
    CHECK(o.code == 2);
    CHECK(o.err.find("s.json") != std::string::npos);
    CHECK(o.err.find(what) != std::string::npos);
  };
  const auto link = [](const char* from, const char* to, int count) {
    return nlohmann::json{{"from", from}, {"to", to}, {"bandwidth", "50 GB/s"}, {"count", count}};
  };
  const nlohmann::json none = nlohmann::json::array();
  nlohmann::json edges = {
      {"kind", "edges"},
      {"routing", "ecmp"},
      {"links",
       {link("gpu[0-63]", "left", 1), link("gpu[64-127]", "right", 1), link("left", "right", 64)}}};
  CHECK(ask(edges, none).code == 0);
  const Outcome cut = ask(edges, {{{"from", "left"}, {"to", "right"}}});
  CHECK(cut.code == 1);
  CHECK(cut.out.find("can't reach") != std::string::npos);
  refused(ask(edges, {{{"from", "left"}, {"to", "rigt"}}}), "\"right\"");
  refused(ask(edges, {{{"from", "gpu0"}, {"to", "right"}}}), "connected to left");
  edges["links"][0]["from"] = "gpu[0-62]";
  refused(ask(edges, none), "gpu63 has none");
  edges["links"].erase(2);
  edges["links"][0]["from"] = "gpu[0-63]";
  refused(ask(edges, none), "gpu0 has none to gpu64");

  // Over a base whose routing is adaptive: the file says the ways.
  const auto platform = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder.path / name) << text;
    return ask({{"kind", "simgrid"}, {"platform", name}}, none);
  };
  const std::string head = "<platform version='4.1'><cluster id='c' prefix='h' suffix='' ";
  const std::string tail = " speed='1Gf' bw='50GBps' lat='1us'/></platform>";
  CHECK(platform("ok.xml", head + "radical='0-127'" + tail).code == 0);
  for (const auto& [name, text, what] : std::vector<std::array<std::string, 3>>{
           {"few.xml", head + "radical='0-126'" + tail, "got 127"},
           {"cut.xml", head, "cut.xml:1"},
           {"empty.xml", "", "empty.xml:1"}}) {
    const Outcome o = platform(name, text);
    CHECK(o.code == 2);
    CHECK(o.err.find(what) != std::string::npos);
  }
  CHECK(ask({{"kind", "simgrid"}, {"platform", "."}}, none).code == 2);
  CHECK(ask({{"kind", "simgrid"}, {"platform", "none.xml"}}, none).code == 2);
}

TEST_CASE("failures that a scenario states are in its bill") {
  const Outcome out = reckon("simulate --json " + kScenarios + "llama3-405b-16k-h100.json");
  REQUIRE(out.code == 0);
  const auto campaign = nlohmann::json::parse(out.out)["campaign"];
  CHECK(campaign["phases"].back()["name"] == "failures");
  CHECK(campaign["failures"]["effective_training_time"] > 0.9);
  CHECK(campaign["days"] == campaign["failures"]["budgeted_days"]);
}
