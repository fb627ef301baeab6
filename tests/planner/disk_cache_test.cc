// The cache of results: whatever happens to writers and files, a reader gets a whole entry or none.
#include "planner/disk_cache.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "tests/real/temporary_folder.h"

using namespace reckon::plan;
using reckon::real::TemporaryFolder;

namespace {

constexpr int kEntries = 6;

DiskCache::Key key(int i) {
  return DiskCache::key_of("question " + std::to_string(i));
}

// Of very different lengths; `version` tells one writer's answer from another's.
std::string text_of(int i, unsigned version) {
  std::string out;
  for (int n = 0; n < 1 + i * i * 2000; ++n)
    out += static_cast<char>('a' + (static_cast<unsigned>(n) * 7 + version) % 26);
  return out + std::to_string(version);
}

// Whether an answer is one that some writer gave, all of it.
bool whole(int i, const std::string& text) {
  const std::size_t digits = text.size() - static_cast<std::size_t>(1 + i * i * 2000);
  if (text.size() < digits || digits == 0 || digits > 6) return false;
  return text == text_of(i, static_cast<unsigned>(std::stoul(text.substr(text.size() - digits))));
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace

TEST_CASE("what is written is read, under its own key alone") {
  const TemporaryFolder folder;
  const DiskCache cache(folder.path + "/new/folders");
  CHECK_FALSE(cache.read(key(0)));
  for (int i = 0; i < kEntries; ++i) CHECK(cache.write(key(i), text_of(i, 3)));
  for (int i = 0; i < kEntries; ++i) CHECK(cache.read(key(i)) == text_of(i, 3));
  CHECK(cache.write(key(1), ""));
  CHECK(cache.read(key(1)) == "");
  // An entry under another's name is none.
  std::filesystem::copy_file(cache.path(key(2)), cache.path(key(99)));
  CHECK_FALSE(cache.read(key(99)));
  CHECK_FALSE(DiskCache("").read(key(0)));
  CHECK(DiskCache("").write(key(0), "x"));
}

TEST_CASE("a folder that can't be written says why") {
  const TemporaryFolder folder;
  put(folder.path + "/file", "");
  std::string why;
  CHECK_FALSE(DiskCache(folder.path + "/file/in").write(key(0), "x", &why));
  CHECK(why.find("/file/in") != std::string::npos);
}

TEST_CASE("what killed writers left goes after an hour, what others keep there stays") {
  const TemporaryFolder folder;
  const DiskCache cache(folder.path);
  const std::string left = cache.path(key(0)) + ".aB3xYz", fresh = cache.path(key(1)) + ".aB3xYz",
                    other = folder.path + "/thesis.tex";
  for (const std::string& file : {left, fresh, other}) put(file, "x");
  const auto old = std::filesystem::file_time_type::clock::now() - std::chrono::hours(2);
  for (const std::string& file : {left, other}) std::filesystem::last_write_time(file, old);
  CHECK(cache.write(key(2), "x"));
  CHECK_FALSE(std::filesystem::exists(left));
  CHECK(std::filesystem::exists(fresh));
  CHECK(std::filesystem::exists(other));
}

TEST_CASE("an entry that was cut off or changed anywhere is no entry") {
  const TemporaryFolder folder;
  const DiskCache cache(folder.path);
  cache.write(key(0), "0123456789abcdef");
  const std::string path = cache.path(key(0)), good = bytes_of(path);
  for (std::size_t length = 0; length < good.size(); ++length) {
    put(path, good.substr(0, length));
    REQUIRE_FALSE(cache.read(key(0)));
  }
  put(path, good + "x");
  CHECK_FALSE(cache.read(key(0)));
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    put(path, bad);
    REQUIRE_FALSE(cache.read(key(0)));
  }
  // Written again, it is one.
  CHECK(cache.write(key(0), "new"));
  CHECK(cache.read(key(0)) == "new");
}

TEST_CASE("250 writers killed at any moment leave no entry that is not whole", "[heavy]") {
  const TemporaryFolder folder;
  const DiskCache cache(folder.path);
  std::mt19937 random(1);
  constexpr int kKills = 250, kAtOnce = 2;
  int found = 0, partial = 0;
  const auto look = [&] {
    for (int i = 0; i < kEntries; ++i)
      if (const auto text = cache.read(key(i))) {
        REQUIRE(whole(i, *text));
        ++found;
      }
  };
  for (int kill_number = 0; kill_number < kKills; kill_number += kAtOnce) {
    pid_t children[kAtOnce];
    for (int c = 0; c < kAtOnce; ++c) {
      children[c] = ::fork();
      REQUIRE(children[c] >= 0);
      if (children[c] == 0)
        for (unsigned version = static_cast<unsigned>(kill_number + c);; version += 1000)
          for (int i = 0; i < kEntries; ++i) cache.write(key(i), text_of(i, version % 100000));
    }
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::microseconds(500 + random() % 6000);
    do look();
    while (std::chrono::steady_clock::now() < until);
    for (const pid_t child : children) {
      REQUIRE(::kill(child, SIGKILL) == 0);
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      REQUIRE(WIFSIGNALED(status));
    }
    look();
    for (const auto& entry : std::filesystem::directory_iterator(folder.path))
      if (entry.path().has_extension()) {
        ++partial;
        std::filesystem::remove(entry.path());
      }
  }
  CHECK(found > kKills);         // there was something to read,
  CHECK(partial > kKills / 10);  // and writers were killed in the middle
}
