// Writes checkpoints. Export: save_checkpoint.
//
// The order that makes a crash harmless: every rank's file is on disk; then the index, then the
// names in the folder; only then the folder gets its name, by one rename. What is replaced or
// removed loses its name before its files go.
#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <system_error>

#include "real/checkpoint.h"
#include "real/checkpoint_format.h"
#include "real/disk_file.h"
#include "real/piece_copy.h"
#include "sim/check.h"

namespace reckon::real {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct RankFile {
  std::uint64_t bytes = 0, checksum = 0;
};

RankFile write_rank_file(const std::string& path, const SavedState& state) {
  json pieces = json::array();
  std::int64_t offset = 0;
  for (const SavedPiece& s : state.pieces) {
    const Piece& p = s.piece;
    check(piece_error(p).empty(), "a saved piece is a part of its tensor");
    const auto bytes = static_cast<std::size_t>(p.count) * sizeof(float);
    pieces.push_back({{"tensor", p.tensor},
                      {"shape", p.shape},
                      {"begin", p.begin},
                      {"extent", p.extent},
                      {"first", p.first},
                      {"count", p.count},
                      {"offset", offset},
                      {"checksum", checksum_text(checksum(s.values, bytes))}});
    offset += p.count;
  }
  std::string header = json{{"pieces", std::move(pieces)}}.dump();
  // The values start on a cache line.
  header.resize((sizeof(FileHead) + header.size() + 63) / 64 * 64 - sizeof(FileHead), ' ');
  FileHead head;
  head.header_bytes = header.size();
  head.header_checksum = checksum(header.data(), header.size());

  NewFile file(path);
  file.write(&head, sizeof head);
  file.write(header.data(), header.size());
  for (const SavedPiece& s : state.pieces)
    file.write(s.values, static_cast<std::size_t>(s.piece.count) * sizeof(float));
  file.finish();
  return {sizeof head + header.size() + static_cast<std::size_t>(offset) * sizeof(float),
          head.header_checksum};
}

// Every rank's, on rank 0.
std::vector<RankFile> gather(const RankFile& own, Group& world) {
  const auto low = [](std::uint64_t x) { return static_cast<std::int32_t>(x & 0xffffffff); };
  std::vector<std::int32_t> in(4 * static_cast<std::size_t>(world.size()), 0), out;
  in[0] = low(own.bytes), in[1] = low(own.bytes >> 32);
  in[2] = low(own.checksum), in[3] = low(own.checksum >> 32);
  world.all_to_all_counts(in, 4, out);
  const auto joined = [&](std::size_t i) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(out[i])) |
           static_cast<std::uint64_t>(static_cast<std::uint32_t>(out[i + 1])) << 32;
  };
  std::vector<RankFile> files;
  for (std::size_t i = 0; i < out.size(); i += 4) files.push_back({joined(i), joined(i + 2)});
  return files;
}

void write_index(const std::string& folder, const SavedState& state,
                 const std::vector<RankFile>& files) {
  json index = {{"format", kCheckpointFormat},
                {"version", kCheckpointVersion},
                {"step", state.step},
                {"metadata", state.metadata},
                {"files", json::array()}};
  for (const RankFile& f : files)
    index["files"].push_back({{"bytes", f.bytes}, {"checksum", checksum_text(f.checksum)}});
  const std::string text = index.dump();
  index["checksum"] = checksum_text(checksum(text.data(), text.size()));
  NewFile file(folder + "/index.json");
  const std::string lines = index.dump(2) + "\n";
  file.write(lines.data(), lines.size());
  file.finish();
}

void remove_checkpoint(const std::string& folder) {
  const std::string partial = folder + kPartial;
  fs::remove_all(partial);
  fs::rename(folder, partial);
  fs::remove_all(partial);
}

// Gives a whole folder its name. A checkpoint of the same step that has it is exchanged with the
// new one in one step.
void give_name(const std::string& partial, const std::string& folder) {
  if (fs::exists(folder)) {
    if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) {
      sync_folder(fs::path(folder).parent_path().string());
      fs::remove_all(partial);  // now the old one
      return;
    }
    // Not every file system can exchange; earlier checkpoints remain whole all the same.
    const std::string old = folder + ".old" + kPartial;
    fs::rename(folder, old);
    fs::rename(partial, folder);
    sync_folder(fs::path(folder).parent_path().string());
    fs::remove_all(old);
    return;
  }
  replace_file(partial, folder);
}

void remove_partial(const std::string& directory) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) == 0 && name.ends_with(kPartial)) found.push_back(entry.path());
  }
  for (const fs::path& path : found) fs::remove_all(path);
}

void remove_old(const std::string& directory, std::int64_t newest, int keep) {
  std::vector<std::pair<std::int64_t, std::string>> steps;  // of folders up to the newest
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::int64_t step = step_of(entry.path().filename().string());
    if (step >= 0 && step <= newest) steps.emplace_back(step, entry.path().string());
  }
  std::sort(steps.rbegin(), steps.rend());
  for (std::size_t i = static_cast<std::size_t>(keep); i < steps.size(); ++i)
    remove_checkpoint(steps[i].second);
}

// Runs `action` on every rank of the group. Where one throws system_error, all do.
template <class Action>
void together(Group& world, const std::string& what, Action action) {
  std::exception_ptr error;
  float code = 0;
  try {
    action();
  } catch (const std::system_error& e) {
    error = std::current_exception();
    code = static_cast<float>(std::max(1, e.code().value()));
  }
  world.all_reduce_max(&code, 1);
  if (error) std::rethrow_exception(error);
  if (code > 0)
    throw std::system_error(static_cast<int>(code), std::generic_category(),
                            what + ": another rank can't write");
}

}  // namespace

void save_checkpoint(const std::string& directory, const SavedState& state, int keep,
                     Group& world) {
  check(state.step >= 0, "a step is no negative number");
  check(keep >= 1, "a checkpoint that is saved is kept");
  const bool first = world.index() == 0;
  const std::string folder = step_folder(directory, state.step), partial = folder + kPartial;
  try {
    together(world, partial, [&] {
      if (!first) return;
      fs::create_directories(directory);
      remove_partial(directory);
      fs::create_directory(partial);
    });
    RankFile own;
    together(world, partial, [&] {
      const auto rank = static_cast<std::size_t>(world.index());
      own = write_rank_file(partial + "/" + rank_file_name(rank), state);
    });
    const std::vector<RankFile> files = gather(own, world);
    together(world, partial, [&] {
      if (!first) return;
      write_index(partial, state, files);
      sync_folder(partial);
      give_name(partial, folder);
      remove_old(directory, state.step, keep);
    });
  } catch (const std::system_error&) {
    std::error_code ignored;  // the disk has said what is wrong
    if (first) fs::remove_all(partial, ignored);
    throw;
  }
}

}  // namespace reckon::real
