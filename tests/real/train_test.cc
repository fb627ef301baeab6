// `reckon train` from outside: signals, kills, damage, ranks as processes.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>
#include <vector>

#include "real/checkpoint_format.h"
#include "real/token_data.h"
#include "real/transport.h"
#include "tests/real/temporary_folder.h"

using namespace reckon::real;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kRanks = 2;

struct Ended {
  int code = -1;    // exit code; -1: by a signal
  std::string out;  // stdout and stderr
  double seconds = 0;
};

// A program that is running, its output in a file.
class Child {
 public:
  Child(std::vector<std::string> words, std::string output) : output_(std::move(output)) {
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ != 0) return;
    ::setpgid(0, 0);
    const int out = ::open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int in = ::open("/dev/null", O_RDONLY);
    ::dup2(in, 0);
    ::dup2(out, 1);
    ::dup2(out, 2);
    std::vector<char*> arguments;
    for (std::string& w : words) arguments.push_back(w.data());
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  void signal(int number) { ::kill(pid_, number); }
  pid_t pid() const { return pid_; }
  bool running() {
    if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ > 0;
  }
  Ended end() {
    if (pid_ > 0) ::waitpid(pid_, &status_, 0);
    pid_ = 0;
    return {WIFEXITED(status_) ? WEXITSTATUS(status_) : -1, file_bytes(output_),
            std::chrono::duration<double>(Clock::now() - start_).count()};
  }

 private:
  std::string output_;
  pid_t pid_ = -1;
  int status_ = 0;
  Clock::time_point start_ = Clock::now();
};

// A scenario of a tiny model, a text as data, and folders of checkpoints.
struct Place {
  TemporaryFolder folder;
  std::string scenario = folder / "scenario.json", data = folder / "data.tokens";

  // `changes`: a JSON merge patch.
  explicit Place(const std::string& changes = "{}") {
    std::string text;
    std::mt19937 random(1);
    const char* const list[] = {"the ", "quick ", "brown ", "fox ", "jumps ", "over ", "dogs.\n"};
    for (int i = 0; i < 4000; ++i) text += list[random() % 7];
    write_bytes(folder / "text", text);
    write_token_data(folder / "data", Tokenizer::bytes(), {folder / "text"});
    nlohmann::json s = {
        {"name", "tiny"},
        {"model",
         {{"name", "tiny"},
          {"layers", 4},
          {"hidden", 32},
          {"ffn", 64},
          {"heads", 4},
          {"kv_heads", 4},
          {"mla", {{"q_lora", 16}, {"kv_lora", 16}, {"qk_nope", 8}, {"qk_rope", 4}, {"v", 8}}},
          {"moe",
           {{"experts", 8},
            {"top_k", 2},
            {"ffn", 16},
            {"shared_ffn", 16},
            {"score", "sigmoid"},
            {"dense_layers", {0}}}},
          {"vocab", 264},
          {"mtp_depth", 1},
          {"mlp", "swiglu"},
          {"norm", "rms-norm"},
          {"positions", "rope"}}},
        {"cluster", "cpu-2"},
        {"stack", "reckon-cpu"},
        {"campaign", {{{"name", "training"}, {"seq", 32}, {"global_batch", 8}, {"steps", 8}}}},
        {"plan",
         {{"tp", 1},
          {"pp", 1},
          {"dp", 2},
          {"ep", 2},
          {"micro_batch", 1},
          {"schedule", "1F1B"},
          {"recompute", {{"mode", "none"}}},
          {"precision", "fp32"},
          {"zero", "optimizer"},
          {"overlap", {{"p2p", false}}}}},
        {"training", {{"lr", 1e-3}, {"checkpoint_every", 1}, {"keep_checkpoints", 2}}}};
    s.merge_patch(nlohmann::json::parse(changes));
    write_bytes(scenario, s.dump(1));
  }

  std::vector<std::string> command(const std::string& output,
                                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {RECKON_PROGRAM,  "train", scenario,
                                      "--data",        data,    "--output",
                                      folder / output, "--log", folder / (output + ".log")};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Ended run(const std::string& output, const std::vector<std::string>& more = {}) const {
    return Child(command(output, more), folder / "out").end();
  }
  std::string checkpoint(const std::string& output, std::int64_t step) const {
    return step_folder(folder / output, step);
  }
  // Newest complete one; 0 if there is none.
  std::int64_t newest(const std::string& output) const {
    std::int64_t newest = 0;
    std::error_code none;
    for (const auto& e : std::filesystem::directory_iterator(folder / output, none))
      newest = std::max(newest, step_of(e.path().filename().string()));
    return newest;
  }
  bool same(const std::string& a, const std::string& b, std::int64_t step,
            int ranks = kRanks) const {
    for (int r = 0; r < ranks; ++r) {
      const std::string name = "/" + rank_file_name(static_cast<std::size_t>(r));
      const std::string bytes = file_bytes(checkpoint(a, step) + name);
      if (bytes.empty() || bytes != file_bytes(checkpoint(b, step) + name)) return false;
    }
    return true;
  }
};

bool wait_until(Child& child, const std::function<bool()>& what, std::chrono::seconds limit = 60s) {
  const auto end = Clock::now() + limit;
  while (!what()) {
    if (!child.running() || Clock::now() > end) return false;
    std::this_thread::sleep_for(200us);
  }
  return true;
}

// Steps of a log, and that they are 1, 2, 3...
std::int64_t logged(const std::string& file) {
  std::ifstream in(file);
  std::int64_t n = 0;
  for (std::string line; std::getline(in, line);) {
    const auto j = nlohmann::json::parse(line);
    CHECK(j.at("step") == ++n);
    for (const char* key : {"loss", "mtp_loss", "grad_norm", "lr", "tokens", "seconds"})
      CHECK(j.at(key).is_number());
  }
  return n;
}

std::vector<std::string> under_mpirun(int ranks, const std::vector<std::string>& command) {
  std::vector<std::string> words = {"env",
                                    "ASAN_OPTIONS=detect_leaks=0",
                                    "OMPI_ALLOW_RUN_AS_ROOT=1",
                                    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                    "timeout",
                                    "120",
                                    RECKON_MPIRUN,
                                    "--oversubscribe",
                                    "-np",
                                    std::to_string(ranks)};
  words.insert(words.end(), command.begin(), command.end());
  return words;
}

bool no_mpi() {
  const bool none = !built_with_mpi() || *RECKON_MPIRUN == 0;
  if (none) WARN("no MPI, or no mpirun, at build time: not tested");
  return none;
}

}  // namespace

TEST_CASE("a run ends on a signal with a checkpoint, and goes on as if it had not") {
  const Place place;
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const std::string name = "run" + std::to_string(number);
    CAPTURE(name);
    Child child(place.command(name, {"--steps", "100000"}), place.folder / "out");
    REQUIRE(wait_until(child, [&] { return place.newest(name) >= 2; }));
    child.signal(number);
    const Ended ended = child.end();
    INFO(ended.out);
    CHECK(ended.code == 0);
    CHECK(ended.out.find("stopped; 100000 were asked for") != std::string::npos);
    const std::int64_t at = place.newest(name);
    CHECK(logged(place.folder / (name + ".log")) == at);
    if (number != SIGINT) continue;
    const std::string steps = std::to_string(at + 3);
    CHECK(place.run(name, {"--resume", "--steps", steps}).code == 0);
    CHECK(place.run("whole", {"--steps", steps}).code == 0);
    CHECK(place.same(name, "whole", at + 3));
    CHECK(logged(place.folder / (name + ".log")) == at + 3);
  }
}

TEST_CASE("killed 50 times while it writes a checkpoint, a run ends with the same bits") {
  const Place place;
  const auto writing = [&](std::int64_t behind) {
    std::error_code none;
    for (const auto& e : std::filesystem::directory_iterator(place.folder / "killed", none)) {
      const std::string name = e.path().filename().string();
      const auto dot = name.find(kPartial);
      if (dot != std::string::npos && step_of(name.substr(0, dot)) > behind) return true;
    }
    return false;
  };
  std::mt19937 random(1);
  int in_the_middle = 0;
  for (int kill = 0; kill < 50; ++kill) {
    const std::int64_t before = place.newest("killed");
    Child child(place.command("killed", {"--resume", "--steps", "100000"}), place.folder / "out");
    // One step gets through, then the next write is hit.
    const bool came = wait_until(child, [&] {
      const std::int64_t now = place.newest("killed");
      return now > before && writing(now);
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    child.signal(SIGKILL);
    const Ended ended = child.end();
    INFO(ended.out);
    REQUIRE(came);
    CHECK(ended.code == -1);
    CHECK(ended.out.find("skipped") == std::string::npos);
    in_the_middle += writing(place.newest("killed"));
  }
  CHECK(in_the_middle > 10);
  const std::int64_t last = place.newest("killed") + 2;
  CHECK(place.run("killed", {"--resume", "--steps", std::to_string(last)}).code == 0);
  CHECK(place.run("whole", {"--steps", std::to_string(last)}).code == 0);
  CHECK(place.same("killed", "whole", last));
}

TEST_CASE("damaged and foreign checkpoints are named and passed over, or refused") {
  const Place place;
  REQUIRE(place.run("run", {"--steps", "4"}).code == 0);
  REQUIRE(place.run("whole", {"--steps", "6"}).code == 0);
  const std::string file = place.checkpoint("run", 4) + "/rank-00001.bin";
  const std::string good = file_bytes(file);

  SECTION("damaged: the one before is taken") {
    std::string bad = good;
    if (GENERATE(true, false))
      bad.resize(bad.size() / 2);
    else
      bad[bad.size() - 100] ^= 1;
    write_bytes(file, bad);
    const Ended ended = place.run("run", {"--resume", "--steps", "6"});
    INFO(ended.out);
    CHECK(ended.code == 0);
    CHECK(ended.out.find("skipped a checkpoint: " + file) != std::string::npos);
    CHECK(ended.out.find("steps 4 to 6") != std::string::npos);
    CHECK(place.same("run", "whole", 6));
  }
  SECTION("none is whole") {
    write_bytes(file, "no checkpoint");
    std::filesystem::remove(place.checkpoint("run", 3) + "/index.json");
    const Ended ended = place.run("run", {"--resume"});
    INFO(ended.out);
    CHECK(ended.code == 2);
    CHECK(ended.out.find("no checkpoint in " + place.folder.path + "/run is whole") !=
          std::string::npos);
  }
  SECTION("a part of another checkpoint") {
    write_bytes(file, file_bytes(place.checkpoint("run", 3) + "/rank-00001.bin"));
    const Ended ended = place.run("run", {"--resume", "--steps", "6"});
    INFO(ended.out);
    CHECK(ended.out.find("of another checkpoint") != std::string::npos);
    CHECK(place.same("run", "whole", 6));
  }
  SECTION("of another model") {
    const Place other(R"({"model": {"heads": 2, "kv_heads": 2}})");
    std::filesystem::copy(place.folder / "run", other.folder / "run",
                          std::filesystem::copy_options::recursive);
    const Ended ended = other.run("run", {"--resume"});
    INFO(ended.out);
    CHECK(ended.code == 2);
    CHECK(ended.out.find("another model: heads 4, here 2") != std::string::npos);
  }
  SECTION("in the way of a new run") {
    const Ended ended = place.run("run");
    INFO(ended.out);
    CHECK(ended.code == 2);
    CHECK(ended.out.find("holds a checkpoint of step 4; go on from it with --resume") !=
          std::string::npos);
    CHECK(place.newest("run") == 4);
  }
}

TEST_CASE("damaged and foreign data are refused") {
  const Place place;
  const std::string good = file_bytes(place.data);
  const auto refused = [&](const std::string& bytes, const std::string& why) {
    write_bytes(place.data, bytes);
    const Ended ended = place.run("run");
    INFO(ended.out);
    CHECK(ended.code == 2);
    CHECK(ended.out.find("data.tokens: " + why) != std::string::npos);
    CHECK(place.newest("run") == 0);
  };
  refused(good.substr(0, good.size() / 2), "truncated");
  std::string flipped = good;
  flipped[good.size() / 2] ^= 4;
  refused(flipped, "damaged");
  refused("some text that is no token data at all, but long enough to hold the head of it",
          "not token data");
  write_bytes(place.data, good);
  const Place small(R"({"model": {"vocab": 100}})");
  const Ended ended = small.run("run");
  CHECK(ended.code == 2);
  CHECK(ended.out.find("257 token ids; expected at most the model's vocab 100") !=
        std::string::npos);
}

TEST_CASE("what can't be trained exits 1 and says why; a run that diverges too") {
  const Place odd(R"({"campaign": [{"name": "t", "seq": 32, "global_batch": 7, "steps": 8}]})");
  const Ended illegal = odd.run("run");
  INFO(illegal.out);
  CHECK(illegal.code == 1);
  CHECK(illegal.out.find("The plan can't be trained: ") != std::string::npos);

  const Place steep(R"({"training": {"lr": 10, "init_std": 10, "clip": 0, "eps": 0}})");
  const Ended diverged = steep.run("run", {"--steps", "100"});
  INFO(diverged.out);
  CHECK(diverged.code == 1);
  CHECK(diverged.out.find("not finite") != std::string::npos);
}

TEST_CASE("ranks as processes train as ranks that are threads do, bit for bit") {
  if (no_mpi()) return;
  const char* const plans[] = {R"({"dp": 2, "ep": 2})",
                               R"({"pp": 2, "dp": 1, "ep": 1, "schedule": "DualPipe",
          "overlap": {"p2p": true, "expert": "pair"}})",
                               R"({"tp": 2, "dp": 1, "ep": 1})"};
  for (const char* plan : plans) {
    CAPTURE(plan);
    const Place place(R"({"plan": )" + std::string(plan) + "}");
    const Ended local = place.run("local");
    INFO(local.out);
    REQUIRE(local.code == 0);
    const Ended mpi = Child(under_mpirun(kRanks, place.command("mpi")), place.folder / "out").end();
    INFO(mpi.out);
    REQUIRE(mpi.code == 0);
    CHECK(place.same("local", "mpi", 8));
  }
}

TEST_CASE("a number of processes that does not fit the plan is an error") {
  if (no_mpi()) return;
  const Place place;
  const Ended ended = Child(under_mpirun(3, place.command("run")), place.folder / "out").end();
  INFO(ended.out);
  CHECK(ended.code == 2);
  CHECK(ended.out.find("has 2 ranks, but mpirun started 3; expected mpirun -np 2") !=
        std::string::npos);
}

TEST_CASE("a rank of a job that is killed ends it within seconds, and the run goes on") {
  if (no_mpi()) return;
  const Place place;
  Child child(under_mpirun(kRanks, place.command("run", {"--steps", "100000"})),
              place.folder / "out");
  REQUIRE(wait_until(child, [&] { return place.newest("run") >= 3; }));
  // The newest process with this program's name and the scenario of this test.
  pid_t rank = 0;
  for (const auto& e : std::filesystem::directory_iterator("/proc")) {
    const std::string name = e.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string line = file_bytes(e.path().string() + "/cmdline");
    if (line.rfind(RECKON_PROGRAM, 0) == 0 && line.find(place.scenario) != std::string::npos)
      rank = std::max(rank, static_cast<pid_t>(std::stoi(name)));
  }
  REQUIRE(rank > 1);
  const auto start = Clock::now();
  ::kill(rank, SIGKILL);
  const Ended ended = child.end();
  INFO(ended.out);
  CHECK(std::chrono::duration<double>(Clock::now() - start).count() < 15);
  CHECK(ended.code != 0);
  CHECK(ended.out.find("signal 9") != std::string::npos);
  const std::string steps = std::to_string(place.newest("run") + 2);
  CHECK(place.run("run", {"--resume", "--steps", steps}).code == 0);
  CHECK(place.run("whole", {"--steps", steps}).code == 0);
  CHECK(place.same("run", "whole", std::stoll(steps)));
}
