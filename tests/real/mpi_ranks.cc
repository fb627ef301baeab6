// One rank of the MPI job that mpi_test.cc starts.
//   mpi_ranks collectives     random collectives in overlapping groups, from several threads
//   mpi_ranks messages        messages of all sizes and tags, from several threads
//   mpi_ranks HOW             fails during an all_reduce: killed, throws, refuses (InputError on
//                             every rank), aborts
//   mpi_ranks train STEPS [DIRECTORY [STEP]]   a training run of 4 ranks, see trained_digest.h;
//   rank 2
//                             is killed during step STEP
//   mpi_ranks plans STEPS     a short run of each of plans_of_four()
//   mpi_ranks bench BYTES     all_reduce and ping-pong
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "sim/input_error.h"
#include "tests/real/collectives.h"
#include "tests/real/trained_digest.h"

using namespace reckon;
using namespace reckon::real;

namespace {

std::vector<int> all_ranks(const Transport& t) {
  std::vector<int> all(static_cast<std::size_t>(t.size()));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void collectives(Transport& t) {
  const int n = t.size();
  const bool lower = t.rank() < n / 2;
  std::vector<std::vector<int>> members = {all_ranks(t), {}, {t.rank()}};
  for (int r = lower ? 0 : n / 2; r < (lower ? n / 2 : n); ++r) members[1].push_back(r);
  std::vector<std::string> errors(members.size());
  std::vector<std::thread> threads;
  for (std::size_t g = 0; g < members.size(); ++g)
    threads.emplace_back([&, g] {
      try {
        const auto group = make_group(t, members[g], static_cast<std::uint32_t>(g));
        for (unsigned seed = 0; seed < 12; ++seed)
          if (const auto error = collective_error(*group, members[g], seed)) errors[g] = *error;
      } catch (const std::exception& e) {
        errors[g] = e.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors)
    if (!error.empty()) throw std::runtime_error("wrong: " + error);
}

void messages(Transport& t) {
  std::vector<std::string> errors(3);
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < errors.size(); ++k)
    threads.emplace_back([&, k] {
      try {
        for (unsigned round = 0; round < 40; ++round) {
          // The highest and lowest tags; from each rank to each, itself too, twice under one tag.
          const auto tag = static_cast<std::uint32_t>(round % 2 ? (1u << 30) - 1 - k : k);
          const std::size_t n = round % 10 == 0 ? 300000 : round * 13;
          std::vector<std::vector<float>> in;
          std::vector<std::unique_ptr<Pending>> pending;
          const std::vector<float> first = contribution<float>(t.rank(), round, n);
          const std::vector<float> second = contribution<float>(t.rank(), round + 100, n + 1);
          for (int r = 0; r < t.size(); ++r) {
            pending.push_back(t.send(r, tag, first.data(), n * sizeof(float)));
            pending.push_back(t.send(r, tag, second.data(), (n + 1) * sizeof(float)));
          }
          for (int r = 0; r < t.size(); ++r)
            for (const std::size_t size : {n, n + 1}) {
              in.emplace_back(size);
              pending.push_back(t.receive(r, tag, in.back().data(), size * sizeof(float)));
            }
          for (const auto& p : pending) p->wait();
          for (int r = 0; r < t.size(); ++r)
            for (const unsigned i : {0u, 1u})
              if (!same_bits(in[2 * static_cast<std::size_t>(r) + i],
                             contribution<float>(r, round + 100 * i, n + i)))
                errors[k] = "a message";
        }
      } catch (const std::exception& e) {
        errors[k] = e.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors)
    if (!error.empty()) throw std::runtime_error("wrong: " + error);
}

// Says on stdout that this rank unwound.
struct Unwound {
  int rank;
  ~Unwound() { std::printf("rank %d unwound\n", rank); }
};

void fail(Transport& t, const std::string& how) {
  const Unwound unwound{t.rank()};
  const auto world = make_group(t, all_ranks(t), 0);
  std::vector<float> values(200000, 1);
  for (int round = 0;; ++round) {
    if (round == 3) {
      if (how == "refuses") throw InputError("file.json:3: expected a number");
      if (t.rank() == 2 && how == "killed") ::kill(::getpid(), SIGKILL);
      if (t.rank() == 2 && how == "throws") throw std::runtime_error("the original");
      if (t.rank() == 2 && how == "aborts") t.abort("enough");
    }
    world->all_reduce(values.data(), values.size());
  }
}

void train(Transport& t, const std::vector<std::string>& arguments) {
  const std::string directory = arguments.size() > 1 ? arguments[1] : "";
  const std::int64_t killed = arguments.size() > 2 ? std::stoll(arguments[2]) : -1;
  std::thread killer;
  const std::uint64_t digest =
      trained_digest(t, std::stoll(arguments.at(0)), directory, [&](std::int64_t done) {
        if (t.rank() != 2 || done != killed) return;
        killer = std::thread([] {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          ::kill(::getpid(), SIGKILL);
        });
      });
  std::printf("rank %d digest %s\n", t.rank(), checksum_text(digest).c_str());
}

void plans(Transport& t, int steps) {
  for (std::size_t k = 0; k < plans_of_four().size(); ++k)
    std::printf("plan %zu rank %d digest %s\n", k, t.rank(),
                checksum_text(digest_of_plan(t, k, steps)).c_str());
}

void bench(Transport& t, std::size_t bytes) {
  const auto world = make_group(t, all_ranks(t), 0);
  std::vector<float> values(bytes / sizeof(float) + 1, 0);
  const auto now = std::chrono::steady_clock::now;
  const auto us = [&](auto start) {
    return std::chrono::duration<double, std::micro>(now() - start).count();
  };
  const int repeats = bytes > 100000 ? 50 : 1000;
  const auto measure = [&](const char* what, auto body) {
    for (int i = 0; i < repeats / 10; ++i) body();
    world->barrier();
    const auto start = now();
    for (int i = 0; i < repeats; ++i) body();
    const double each = us(start) / repeats;
    world->barrier();
    if (t.rank() == 0)
      std::printf("%-10s %10zu bytes %10.1f us %8.2f GB/s\n", what, bytes, each,
                  static_cast<double>(bytes) / each / 1e3);
  };
  measure("all_reduce", [&] { world->all_reduce(values.data(), bytes / sizeof(float)); });
  measure("ping-pong", [&] {
    if (t.rank() == 0) {
      t.send(1, 1, values.data(), bytes)->wait();
      t.receive(1, 1, values.data(), bytes)->wait();
    } else if (t.rank() == 1) {
      t.receive(0, 1, values.data(), bytes)->wait();
      t.send(0, 1, values.data(), bytes)->wait();
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  run_mpi([&](Transport& t) {
    if (what == "collectives")
      collectives(t);
    else if (what == "messages")
      messages(t);
    else if (what == "train")
      train(t, {argv + 2, argv + argc});
    else if (what == "plans")
      plans(t, std::atoi(argv[2]));
    else if (what == "bench")
      bench(t, argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 8);
    else
      fail(t, what);
  });
  std::printf("done\n");
}
