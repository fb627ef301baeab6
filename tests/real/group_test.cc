// Collectives equal the loop that defines them, bit for bit: sums in member order.
#include "real/group.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "tests/real/collectives.h"

using namespace reckon::real;

TEST_CASE("collectives equal their definitions, bit for bit, for groups of 1 to 9") {
  for (int ranks = 1; ranks <= 9; ++ranks) {
    std::atomic<int> wrong = 0;
    run_local(ranks, [&](Transport& t) {
      std::vector<int> all(static_cast<std::size_t>(ranks));
      for (int r = 0; r < ranks; ++r) all[static_cast<std::size_t>(r)] = r;
      const auto group = make_group(t, all, 0);
      for (unsigned seed = 0; seed < 6; ++seed)
        if (collective_error(*group, all, seed)) ++wrong;
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("groups that overlap run at once from threads of their own") {
  // 4 ranks; the rows, the columns and the whole grid, each from one thread a rank.
  std::atomic<int> wrong = 0;
  run_local(4, [&](Transport& t) {
    const int row = t.rank() / 2, column = t.rank() % 2;
    const std::vector<std::vector<int>> members = {
        {0, 1, 2, 3}, {2 * row, 2 * row + 1}, {column, column + 2}};
    std::vector<std::unique_ptr<Group>> groups;
    for (std::uint32_t id = 0; id < 3; ++id) groups.push_back(make_group(t, members[id], id));
    std::vector<std::thread> threads;
    for (std::size_t g = 0; g < 3; ++g)
      threads.emplace_back([&, g] {
        for (unsigned seed = 0; seed < 10; ++seed)
          if (collective_error(*groups[g], members[g], seed)) ++wrong;
      });
    for (std::thread& thread : threads) thread.join();
  });
  CHECK(wrong == 0);
}

TEST_CASE("no member leaves a barrier before the last has come") {
  for (int ranks : {2, 3, 5, 8}) {
    std::atomic<int> came = 0, early = 0;
    run_local(ranks, [&](Transport& t) {
      std::vector<int> all;
      for (int r = 0; r < ranks; ++r) all.push_back(r);
      const auto group = make_group(t, all, 5);
      for (int round = 1; round <= 20; ++round) {
        if ((t.rank() + round) % 4 == 0)
          std::this_thread::sleep_for(std::chrono::microseconds(100));
        ++came;
        group->barrier();
        if (came < round * ranks) ++early;
      }
    });
    CHECK(early == 0);
  }
}

TEST_CASE("a member that fails in a collective ends it for all") {
  for (int failing = 0; failing < 4; ++failing) {
    const auto run = [&] {
      run_local(4, [&](Transport& t) {
        const auto group = make_group(t, {0, 1, 2, 3}, 0);
        std::vector<float> values(50000, 1);
        for (int round = 0;; ++round) {
          if (t.rank() == failing && round == 3) throw std::domain_error("fails");
          group->all_reduce(values.data(), values.size());
        }
      });
    };
    CHECK_THROWS_AS(run(), std::domain_error);
  }
}
