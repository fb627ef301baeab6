// Messages between ranks: order, sizes, and how a run ends when a rank fails.
#include "real/transport.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <ctime>
#include <random>
#include <thread>

using namespace reckon::real;

namespace {

std::vector<int> numbers(int seed, std::size_t n) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::vector<int> out(n);
  for (int& x : out) x = static_cast<int>(random());
  return out;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TEST_CASE("messages of one tag arrive in the order of posting, tags in any order") {
  // Sizes on both sides of what a channel keeps; the receiver takes the tags the other way round.
  run_local(2, [](Transport& t) {
    const std::vector<std::size_t> sizes = {0, 1, 7, 4000, 4096, 5000, 300000};
    for (int round = 0; round < 20; ++round) {
      if (t.rank() == 0) {
        std::vector<std::vector<int>> sent;
        std::vector<std::unique_ptr<Pending>> pending;
        for (std::uint32_t tag = 0; tag < 3; ++tag)
          for (std::size_t i = 0; i < sizes.size(); ++i) {
            sent.push_back(numbers(static_cast<int>(100 * tag + i), sizes[i]));
            pending.push_back(t.send(1, tag, sent.back().data(), sent.back().size() * sizeof(int)));
          }
        for (const auto& p : pending) p->wait();
      } else {
        for (std::uint32_t tag = 3; tag-- > 0;)
          for (std::size_t i = 0; i < sizes.size(); ++i) {
            std::vector<int> got(sizes[i]);
            t.receive(0, tag, got.data(), got.size() * sizeof(int))->wait();
            if (got != numbers(static_cast<int>(100 * tag + i), sizes[i]))
              throw std::logic_error("wrong message");
          }
      }
    }
  });
}

TEST_CASE("threads of a rank exchange messages at once") {
  // Rank r's thread k talks to thread k of each other rank under tag k.
  constexpr int kRanks = 3, kThreads = 3, kRounds = 50;
  std::atomic<int> wrong = 0;
  run_local(kRanks, [&](Transport& t) {
    std::vector<std::thread> threads;
    for (int k = 0; k < kThreads; ++k)
      threads.emplace_back([&, k] {
        std::mt19937 random(static_cast<unsigned>(k));  // the same sizes on every rank
        for (int round = 0; round < kRounds; ++round) {
          const std::size_t n = random() % 4 == 0 ? random() % 20000 : random() % 50;
          const auto tag = static_cast<std::uint32_t>(k);
          const std::vector<int> mine = numbers(t.rank() + 10 * round, n);
          std::vector<std::vector<int>> theirs(kRanks, std::vector<int>(n));
          std::vector<std::unique_ptr<Pending>> pending;
          for (int r = 0; r < kRanks; ++r) {
            const auto i = static_cast<std::size_t>(r);
            pending.push_back(t.send(r, tag, mine.data(), n * sizeof(int)));  // itself too
            pending.push_back(t.receive(r, tag, theirs[i].data(), n * sizeof(int)));
          }
          for (const auto& p : pending) p->wait();
          for (int r = 0; r < kRanks; ++r)
            if (theirs[static_cast<std::size_t>(r)] != numbers(r + 10 * round, n)) ++wrong;
        }
      });
    for (std::thread& thread : threads) thread.join();
  });
  CHECK(wrong == 0);
}

TEST_CASE("an exception of one rank ends all at once and is thrown again") {
  for (const bool waits_in_thread : {false, true}) {
    std::atomic<int> lost = 0;
    const auto start = std::chrono::steady_clock::now();
    const auto run = [&] {
      run_local(5, [&](Transport& t) {
        if (t.rank() == 3) {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          throw std::domain_error("the original");
        }
        std::vector<int> buffer(100000);
        const auto wait_for_ever = [&] {
          try {
            // A message that nobody sends, and one that nobody takes.
            const auto in = t.receive(4 - t.rank() / 4, 1, buffer.data(), 4);
            const auto out = t.send(3, 2, buffer.data(), buffer.size() * sizeof(int));
            t.rank() % 2 ? in->wait() : out->wait();
          } catch (const PeerLost& e) {
            if (std::string(e.what()) == "rank 3 failed: the original") ++lost;
            if (!waits_in_thread) throw;
          }
        };
        if (waits_in_thread)
          std::thread(wait_for_ever).join();
        else
          wait_for_ever();
      });
    };
    CHECK_THROWS_AS(run(), std::domain_error);
    CHECK(lost == 4);
    CHECK(seconds_since(start) < 5);
  }
}

TEST_CASE("a rank that unwinds takes its messages back before its buffers go") {
  // Rank 0 posts ends with buffers that die at once, while rank 1 posts the other ends.
  for (int round = 0; round < 30; ++round) {
    const auto run = [&] {
      run_local(2, [&](Transport& t) {
        std::vector<int> buffer(1 << 16, 1);
        std::vector<std::unique_ptr<Pending>> pending;
        for (std::uint32_t tag = 0; tag < 4; ++tag) {
          pending.push_back(t.send(1 - t.rank(), tag, buffer.data(), buffer.size() / 2));
          pending.push_back(
              t.receive(1 - t.rank(), tag, buffer.data() + buffer.size() / 2, buffer.size() / 2));
          if (t.rank() == 0 && static_cast<int>(tag) == round % 4)
            throw std::runtime_error("unwinds");
        }
        for (const auto& p : pending) p->wait();
      });
    };
    CHECK_THROWS_WITH(run(), "unwinds");
  }
}

TEST_CASE("abort without an exception, and a rank that returns early, are PeerLost") {
  CHECK_THROWS_WITH(run_local(3,
                              [](Transport& t) {
                                int x = 0;
                                if (t.rank() == 0) t.abort("enough");
                                t.receive(0, 0, &x, sizeof x)->wait();
                              }),
                    "enough");
  CHECK_THROWS_WITH(run_local(2,
                              [](Transport& t) {
                                int x = 1;
                                if (t.rank() == 0) {
                                  t.send(1, 7, &x, sizeof x)->wait();
                                  return;
                                }
                                t.receive(0, 7, &x, sizeof x)->wait();  // was sent in time
                                t.receive(0, 7, &x, sizeof x)->wait();
                              }),
                    "rank 0 has ended");
}

TEST_CASE("waiting does not burn a core") {
  // 8 ranks wait 0.3 s for one that sleeps.
  const std::clock_t before = std::clock();
  run_local(9, [](Transport& t) {
    int x = 0;
    if (t.rank() == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      for (int r = 1; r < t.size(); ++r) t.send(r, 0, &x, sizeof x)->wait();
    } else {
      t.receive(0, 0, &x, sizeof x)->wait();
    }
  });
  CHECK(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < 0.05);
}
