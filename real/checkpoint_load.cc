// Reads checkpoints. Export: Checkpoint.
#include <algorithm>
#include <filesystem>
#include <map>

#include "hw-models/strict_json.h"
#include "real/checkpoint.h"
#include "real/checkpoint_format.h"
#include "real/disk_file.h"
#include "real/piece_copy.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::real {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void fail(const std::string& file, const std::string& what) {
  throw InputError(file + ": " + what);
}

// Runs `read`; what JSON has to say against it is an InputError about `file`.
template <class Read>
auto reading(const std::string& file, Read read) {
  try {
    return read();
  } catch (const json::exception& e) {
    fail(file, fmt::format("not what a checkpoint holds: {}", e.what()));
  }
}

json parse_index(const MappedFile& file) {
  json index = json::parse(file.text(), nullptr, false);
  if (index.is_discarded()) fail(file.path(), "damaged: not JSON");
  if (!index.is_object() || index.value("format", json()) != kCheckpointFormat)
    fail(file.path(), fmt::format("expected \"format\": \"{}\"; not a checkpoint, or damaged",
                                  kCheckpointFormat));
  if (index.value("version", json()) != kCheckpointVersion)
    fail(file.path(), fmt::format("version {}; this reckon reads version {}",
                                  index.value("version", json()).dump(), kCheckpointVersion));
  const json expected = index.value("checksum", json());
  index.erase("checksum");
  const std::string text = index.dump();
  if (expected != checksum_text(checksum(text.data(), text.size())))
    fail(file.path(), "damaged: its checksum is wrong");
  return index;
}

struct Held {
  Piece piece;
  const float* values;  // [piece.count]
};

std::string named(const Piece& p) {
  return p.count == 0 ? fmt::format("tensor '{}'", p.tensor)
                      : fmt::format("tensor '{}', {} elements from {} on", p.tensor, p.count,
                                    element_text(p, p.first));
}

// The pieces of a rank's file, all of whose checksums are right.
std::vector<Held> read_rank_file(const MappedFile& file, std::uint64_t bytes,
                                 const std::string& header_checksum) {
  if (file.size() != bytes)
    fail(file.path(), fmt::format("damaged: {} bytes, expected {}", file.size(), bytes));
  FileHead head;
  if (file.size() < sizeof head) fail(file.path(), "damaged: too short");
  std::memcpy(&head, file.bytes(), sizeof head);
  if (head.magic != kRankFileMagic) fail(file.path(), "not a rank's part of a checkpoint");
  if (head.header_bytes > file.size() - sizeof head ||
      (sizeof head + head.header_bytes) % alignof(float) != 0)
    fail(file.path(), "damaged: the length of its header is wrong");
  const std::string_view header = file.text().substr(sizeof head, head.header_bytes);
  const std::string found = checksum_text(checksum(header.data(), header.size()));
  if (found != checksum_text(head.header_checksum))
    fail(file.path(), "damaged: the checksum of its header is wrong");
  if (found != header_checksum)
    fail(file.path(), "of another checkpoint: its header has not the checksum that the index says");

  const std::byte* const start = file.bytes() + sizeof head + head.header_bytes;
  const std::uint64_t floats = (file.size() - sizeof head - head.header_bytes) / sizeof(float);
  std::vector<Held> held;
  const json root = json::parse(header);
  for (const json& j : root.at("pieces")) {
    Piece p;
    j.at("tensor").get_to(p.tensor);
    j.at("shape").get_to(p.shape);
    j.at("begin").get_to(p.begin);
    j.at("extent").get_to(p.extent);
    j.at("first").get_to(p.first);
    j.at("count").get_to(p.count);
    const std::string error = piece_error(p);
    if (!error.empty()) fail(file.path(), fmt::format("tensor '{}': {}", p.tensor, error));
    const auto offset = j.at("offset").get<std::uint64_t>();
    const auto count = static_cast<std::uint64_t>(p.count);
    if (offset > floats || count > floats - offset)
      fail(file.path(), fmt::format("{}: beyond the end of the file", named(p)));
    const std::byte* const values = start + offset * sizeof(float);
    if (checksum_text(checksum(values, count * sizeof(float))) != j.at("checksum"))
      fail(file.path(), fmt::format("damaged: {}: the checksum is wrong", named(p)));
    held.push_back({std::move(p), reinterpret_cast<const float*>(values)});
  }
  return held;
}

}  // namespace

struct Checkpoint::Contents {
  std::string folder;
  std::int64_t step = 0;
  std::string metadata;
  std::vector<std::unique_ptr<MappedFile>> files;  // by rank
  std::map<std::string, std::vector<Held>> tensors;
};

Checkpoint::Checkpoint(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}

Checkpoint Checkpoint::open(const std::string& folder) {
  if (!fs::is_directory(folder)) fail(folder, "no such folder; expected a checkpoint");
  auto contents = std::make_shared<Contents>();
  contents->folder = folder;
  const MappedFile index_file(folder + "/index.json");
  reading(index_file.path(), [&] {
    const json index = parse_index(index_file);
    index.at("step").get_to(contents->step);
    index.at("metadata").get_to(contents->metadata);
    for (const json& f : index.at("files")) {
      const std::string path = folder + "/" + rank_file_name(contents->files.size());
      contents->files.push_back(std::make_unique<MappedFile>(path));
      const auto held = reading(path, [&] {
        return read_rank_file(*contents->files.back(), f.at("bytes").get<std::uint64_t>(),
                              f.at("checksum").get<std::string>());
      });
      for (const Held& h : held) {
        std::vector<Held>& others = contents->tensors[h.piece.tensor];
        if (!others.empty() && others[0].piece.shape != h.piece.shape)
          fail(path,
               fmt::format("tensor '{}' has the shape {}, in another piece {}", h.piece.tensor,
                           shape_text(h.piece.shape), shape_text(others[0].piece.shape)));
        others.push_back(h);
      }
    }
  });
  const std::int64_t named_step = step_of(fs::path(folder).filename().string());
  if (named_step >= 0 && named_step != contents->step)
    fail(index_file.path(),
         fmt::format("of step {}, in a folder named for step {}", contents->step, named_step));
  return Checkpoint(std::move(contents));
}

std::optional<Checkpoint> Checkpoint::newest(const std::string& directory,
                                             std::vector<std::string>* damage) {
  std::vector<std::pair<std::int64_t, std::string>> steps;
  std::error_code none;  // no such directory: no checkpoint
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, none)) {
    const std::int64_t step = step_of(entry.path().filename().string());
    if (step >= 0) steps.emplace_back(step, entry.path().string());
  }
  std::sort(steps.rbegin(), steps.rend());
  for (const auto& [step, folder] : steps) {
    try {
      return open(folder);
    } catch (const InputError& e) {
      if (damage) damage->push_back(e.what());
    }
  }
  return std::nullopt;
}

const std::string& Checkpoint::folder() const {
  return contents_->folder;
}
std::int64_t Checkpoint::step() const {
  return contents_->step;
}
const std::string& Checkpoint::metadata() const {
  return contents_->metadata;
}

bool Checkpoint::has(const std::string& tensor) const {
  return contents_->tensors.count(tensor) > 0;
}

void Checkpoint::read(const Piece& piece, float* out) const {
  check(piece_error(piece).empty(), "a piece to read is a part of its tensor");
  const auto found = contents_->tensors.find(piece.tensor);
  if (found == contents_->tensors.end()) {
    std::vector<std::string> names;
    for (const auto& [name, held] : contents_->tensors) names.push_back(name);
    const std::string nearest = hw::nearest_spelling(piece.tensor, names);
    fail(contents_->folder, fmt::format("no tensor '{}'{}", piece.tensor,
                                        nearest.empty() ? "" : "; nearest: '" + nearest + "'"));
  }
  const std::vector<Held>& pieces = found->second;
  if (pieces[0].piece.shape != piece.shape)
    fail(contents_->folder,
         fmt::format("tensor '{}' has the shape {}, expected {}", piece.tensor,
                     shape_text(pieces[0].piece.shape), shape_text(piece.shape)));
  Filled filled(piece.count);
  for (const Held& h : pieces) copy_common({h.piece, h.values}, piece, out, filled);
  const std::int64_t gap = filled.first_gap();
  if (gap < piece.count)
    fail(contents_->folder, fmt::format("tensor '{}': element {} is in no rank's file",
                                        piece.tensor, element_text(piece, piece.first + gap)));
}

}  // namespace reckon::real
