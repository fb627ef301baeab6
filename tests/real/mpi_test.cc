// Ranks as processes of an MPI job on this machine: the same results as ranks that are threads, and
// a job that ends soon and says why when a rank fails. The ranks are the program mpi_ranks.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

#include "real/transport.h"
#include "sim/input_error.h"
#include "tests/real/temporary_folder.h"
#include "tests/real/trained_digest.h"

using namespace reckon;
using namespace reckon::real;

namespace {

struct Ended {
  int code = -1;
  std::string text;  // stdout and stderr
  double seconds = 0;
};

// `mpirun -np RANKS mpi_ranks ARGUMENTS`
Ended mpirun(int ranks, const std::string& arguments) {
  // More ranks than cores; root in a container; Open MPI's own leaks are not ours.
  const std::string command =
      "ASAN_OPTIONS=detect_leaks=0 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
      "timeout 120 '" RECKON_MPIRUN "' --oversubscribe -np " +
      std::to_string(ranks) + " '" RECKON_MPI_RANKS "' " + arguments + " 2>&1 </dev/null";
  const auto start = std::chrono::steady_clock::now();
  Ended out;
  std::FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  char buffer[4096];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe))
    out.text.append(buffer, n);
  const int status = ::pclose(pipe);
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; ++at) ++n;
  return n;
}

bool no_mpi() {
  const bool none = !built_with_mpi() || *RECKON_MPIRUN == 0;
  if (none) WARN("no MPI, or no mpirun, at build time: not tested");
  return none;
}

}  // namespace

TEST_CASE("without MPI at build time run_mpi says so") {
  if (built_with_mpi()) return;
  CHECK_THROWS_WITH(run_mpi([](Transport&) {}), Catch::Contains("built without MPI"));
}

TEST_CASE("collectives over MPI equal their definitions, bit for bit, as local ones do") {
  if (no_mpi()) return;
  for (int ranks : {1, 4, 5}) {
    const Ended out = mpirun(ranks, "collectives");
    INFO(out.text);
    CHECK(out.code == 0);
    CHECK(count(out.text, "done\n") == ranks);
  }
}

TEST_CASE("messages over MPI keep their order, whatever size and tag") {
  if (no_mpi()) return;
  const Ended out = mpirun(3, "messages");
  INFO(out.text);
  CHECK(out.code == 0);
  CHECK(count(out.text, "done\n") == 3);
}

TEST_CASE("a killed rank ends the job within seconds, named") {
  if (no_mpi()) return;
  const Ended out = mpirun(4, "killed");
  INFO(out.text);
  CHECK(out.code != 0);
  CHECK(out.seconds < 15);
  CHECK(count(out.text, "rank 2") >= 1);
  CHECK(count(out.text, "signal 9 (Killed)") == 1);
  CHECK(count(out.text, "done\n") == 0);
}

TEST_CASE("a rank that throws ends the job: all unwind, one says why") {
  if (no_mpi()) return;
  for (const bool throws : {true, false}) {
    const Ended out = mpirun(4, throws ? "throws" : "aborts");
    INFO(out.text);
    CHECK(out.code == 1);
    CHECK(out.seconds < 15);
    CHECK(count(out.text, throws ? ": the original\n" : ": enough\n") == 1);
    CHECK(count(out.text, "reckon: rank 2 on ") == 1);
    CHECK(count(out.text, "unwound\n") == 4);
    CHECK(count(out.text, "done\n") == 0);
  }
}

TEST_CASE("bad input that every rank sees is reported once, with exit code 2") {
  if (no_mpi()) return;
  const Ended out = mpirun(4, "refuses");
  INFO(out.text);
  CHECK(out.code == 2);
  CHECK(count(out.text, ": file.json:3: expected a number\n") == 1);
  CHECK(count(out.text, "unwound\n") == 4);
}

TEST_CASE("training over MPI ends with the same bits as over threads, also after a kill -9") {
  if (no_mpi()) return;
  constexpr int kSteps = 6;
  std::string digests[4];
  run_local(4, [&](Transport& t) {
    digests[t.rank()] = "rank " + std::to_string(t.rank()) + " digest " +
                        checksum_text(trained_digest(t, kSteps)) + "\n";
  });
  const auto all_equal = [&](const Ended& out) {
    for (const std::string& digest : digests)
      if (count(out.text, digest) != 1) return false;
    return out.code == 0;
  };
  const std::string train = "train " + std::to_string(kSteps);
  const Ended whole = mpirun(4, train);
  INFO(whole.text);
  CHECK(all_equal(whole));

  const TemporaryFolder folder;
  const Ended killed = mpirun(4, train + " " + folder.path + " 4");
  INFO(killed.text);
  CHECK(killed.code != 0);
  CHECK(killed.seconds < 20);
  CHECK(count(killed.text, "signal 9 (Killed)") == 1);
  const auto newest = Checkpoint::newest(folder.path, nullptr);
  REQUIRE(newest);
  CHECK(newest->step() >= 4);
  CHECK(newest->step() < kSteps);
  const Ended resumed = mpirun(4, train + " " + folder.path);
  INFO(resumed.text);
  CHECK(all_equal(resumed));
}

TEST_CASE("every kind of plan trains over MPI to the bits that it has over threads") {
  if (no_mpi()) return;
  constexpr int kSteps = 3;
  std::mutex mutex;
  std::vector<std::string> lines;
  run_local(4, [&](Transport& t) {
    for (std::size_t k = 0; k < plans_of_four().size(); ++k) {
      const std::uint64_t digest = digest_of_plan(t, k, kSteps);
      const std::lock_guard lock(mutex);
      lines.push_back("plan " + std::to_string(k) + " rank " + std::to_string(t.rank()) +
                      " digest " + checksum_text(digest) + "\n");
    }
  });
  const Ended out = mpirun(4, "plans " + std::to_string(kSteps));
  INFO(out.text);
  CHECK(out.code == 0);
  CHECK(lines.size() == 4 * plans_of_four().size());
  for (const std::string& line : lines) {
    CAPTURE(line);
    CHECK(count(out.text, line) == 1);
  }
}
