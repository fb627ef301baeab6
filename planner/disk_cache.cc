// Layout of an entry, little-endian: magic (8 bytes), key (16), length of the answer (8), answer,
// XXH3 of all before it (8).
#include "planner/disk_cache.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "planner/file.h"
#include "sim/input_error.h"

namespace reckon::plan {

namespace {

static_assert(std::endian::native == std::endian::little, "entries are written as they lie");

constexpr std::string_view kMagic = "reckonC1";
constexpr std::size_t kHead = 32, kTail = 8;

std::string head(DiskCache::Key key, std::uint64_t length) {
  std::string out(kMagic);
  for (std::uint64_t word : {key.high, key.low, length})
    out.append(reinterpret_cast<const char*>(&word), sizeof word);
  return out;
}

std::string tail(std::string_view before) {
  const std::uint64_t sum = XXH3_64bits(before.data(), before.size());
  return {reinterpret_cast<const char*>(&sum), sizeof sum};
}

}  // namespace

DiskCache::Key DiskCache::key_of(std::string_view question) {
  const XXH128_hash_t h = XXH3_128bits(question.data(), question.size());
  return {.high = h.high64, .low = h.low64};
}

std::string DiskCache::usual_folder() {
  const auto variable = [](const char* name) -> std::filesystem::path {
    const char* const value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  const auto cache = variable("XDG_CACHE_HOME"), home = variable("HOME");
  // The XDG base directory specification ignores relative paths.
  if (cache.is_absolute()) return (cache / "reckon").string();
  return home.empty() ? "" : (home / ".cache" / "reckon").string();
}

std::string DiskCache::path(Key key) const {
  return (std::filesystem::path(folder_) / fmt::format("{:016x}{:016x}", key.high, key.low))
      .string();
}

std::optional<std::string> DiskCache::read(Key key) const {
  if (folder_.empty()) return std::nullopt;
  std::string entry;
  try {
    entry = read_file(path(key));
  } catch (const InputError&) {  // not there, or not readable
    return std::nullopt;
  }
  if (entry.size() < kHead + kTail) return std::nullopt;
  const std::string_view all = entry, before = all.substr(0, all.size() - kTail);
  if (!before.starts_with(head(key, before.size() - kHead)) || !all.ends_with(tail(before)))
    return std::nullopt;
  return std::string(before.substr(kHead));
}

// Removes files that were not renamed within an hour: their writers are gone. By their names, as
// write_file makes them: the folder may be one that holds other things.
void DiskCache::sweep() const {
  if (std::exchange(swept_, true)) return;
  const auto old = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  const auto is_left = [](const std::string& name) {
    const std::size_t digits = name.find_first_not_of("0123456789abcdef");
    return digits == 32 && name.size() == 39 && name[32] == '.';  // key.XXXXXX
  };
  std::error_code error;
  std::filesystem::directory_iterator at(folder_, error);
  for (; !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
    std::error_code gone;  // another process may be faster
    if (is_left(at->path().filename().string()) && at->last_write_time(gone) < old && !gone)
      std::filesystem::remove(at->path(), gone);
  }
}

bool DiskCache::write(Key key, std::string_view answer, std::string* failure) const {
  if (folder_.empty()) return true;
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) {
    if (failure != nullptr) *failure = folder_ + ": " + error.message();
    return false;
  }
  sweep();
  std::string entry = head(key, answer.size());
  entry += answer;
  entry += tail(entry);
  try {
    write_file(path(key), entry);  // a file of another name, synced, renamed
  } catch (const InputError& e) {
    if (failure != nullptr) *failure = e.what();
    return false;
  }
  return true;
}

}  // namespace reckon::plan
