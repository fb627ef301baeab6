// Checkpoints whose writer is killed, or whose disk is full: the last good one always loads.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <numeric>
#include <random>
#include <system_error>
#include <thread>

#include "real/checkpoint.h"
#include "tests/real/temporary_folder.h"

using namespace reckon::real;

namespace {

constexpr int kRanks = 2;
constexpr std::int64_t kElements = 30000;  // of each rank

// Every element of step s is s, so that a mixture shows.
void save_step(const std::string& directory, std::int64_t step) {
  run_local(kRanks, [&](Transport& t) {
    const auto world = make_group(t, {0, 1}, 0);
    const std::vector<float> values(kElements, static_cast<float>(step));
    const Piece piece{"w", {kRanks, kElements}, {t.rank(), 0}, {1, kElements}, 0, kElements};
    save_checkpoint(directory, {.step = step, .metadata = "{}", .pieces = {{piece, values.data()}}},
                    2, *world);
  });
}

// Whether every element is the step's.
bool is_whole(const Checkpoint& c) {
  std::vector<float> out(kRanks * kElements);
  c.read({"w", {kRanks, kElements}, {0, 0}, {kRanks, kElements}, 0, kRanks * kElements},
         out.data());
  return std::all_of(out.begin(), out.end(),
                     [&](float x) { return x == static_cast<float>(c.step()); });
}

}  // namespace

TEST_CASE("a writer killed at any moment leaves the last good checkpoint") {
  // The child saves one step after the other and says in a pipe which it has finished; what is
  // newest afterwards is at least that. It goes on from there, as a run that is started again.
  const TemporaryFolder folder;
  std::mt19937 random(1);
  const auto start = std::chrono::steady_clock::now();
  const pid_t measured = ::fork();
  if (measured == 0) {
    for (std::int64_t step = 0; step < 4; ++step) save_step(folder.path, step);
    ::_exit(0);
  }
  ::waitpid(measured, nullptr, 0);
  const auto four_saves = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - start);
  std::int64_t finished = 3;
  int in_the_middle = 0;
  for (int kill_number = 0; kill_number < 60; ++kill_number) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(ends[0]);
      try {
        // Every other child saves again the last step that is there.
        for (std::int64_t step = finished + kill_number % 2;; ++step) {
          save_step(folder.path, step);
          if (::write(ends[1], &step, sizeof step) != sizeof step) ::_exit(2);
        }
      } catch (...) {
        ::_exit(3);
      }
    }
    ::close(ends[1]);
    std::this_thread::sleep_for(four_saves * static_cast<double>(random() % 1000) / 1000);
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    for (std::int64_t step = 0; ::read(ends[0], &step, sizeof step) == sizeof step;)
      finished = std::max(finished, step);
    ::close(ends[0]);

    std::vector<std::string> damage;
    const auto newest = Checkpoint::newest(folder.path, &damage);
    CHECK(damage.empty());
    REQUIRE(newest);
    CHECK(newest->step() >= finished);
    CHECK(is_whole(*newest));
    finished = newest->step();
    for (const auto& entry : std::filesystem::directory_iterator(folder.path))
      if (entry.path().extension() == ".partial") {
        ++in_the_middle;
        break;
      }
  }
  CHECK(finished > 5);       // the children got on,
  CHECK(in_the_middle > 5);  // and were killed in the middle of a save
}

TEST_CASE("a disk that is full leaves the last good checkpoint, and all ranks hear of it") {
  // Files can't grow beyond a limit, in a child: what a full disk does to write().
  const TemporaryFolder folder;
  save_step(folder.path, 1);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{kElements * 2, kElements * 2};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    int told = 0;
    try {
      run_local(kRanks, [&](Transport& t) {
        const auto world = make_group(t, {0, 1}, 0);
        // Rank 1's file is small enough.
        const std::vector<float> values(kElements, 2);
        const std::int64_t n = t.rank() == 0 ? kElements : 10;
        const Piece piece{"w", {kRanks, kElements}, {t.rank(), 0}, {1, n}, 0, n};
        for (int attempt = 0; attempt < 2; ++attempt) {
          bool failed = false;
          try {
            save_checkpoint(folder.path,
                            {.step = 2, .metadata = "{}", .pieces = {{piece, values.data()}}}, 1,
                            *world);
          } catch (const std::system_error& e) {
            failed = e.code().value() == EFBIG &&
                     std::string(e.what()).find("step-00000002.partial") != std::string::npos;
          }
          float count = failed ? 1 : 0;
          world->all_reduce(&count, 1);
          if (t.rank() == 0) told += static_cast<int>(count);
        }
      });
    } catch (...) {
      ::_exit(3);
    }
    ::_exit(told == 2 * kRanks ? 0 : 4);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  std::vector<std::string> damage;
  const auto newest = Checkpoint::newest(folder.path, &damage);
  REQUIRE(newest);
  CHECK(damage.empty());
  CHECK(newest->step() == 1);
  CHECK(is_whole(*newest));
  CHECK_FALSE(std::filesystem::exists(folder / "step-00000002.partial"));
}

TEST_CASE("a folder that can't be written is an error with its path") {
  const TemporaryFolder folder;
  write_bytes(folder / "file", "x");
  CHECK_THROWS_AS(save_step(folder / "file", 1), std::system_error);
  CHECK_THROWS_WITH(save_step(folder / "file", 1), Catch::Contains(folder / "file"));
}
