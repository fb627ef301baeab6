// Checkpoints: a folder per step, one file per rank, made whole by an atomic rename. Tensors are
// saved as pieces of the whole model's tensors, so that a checkpoint written under one plan loads
// under another.
//
//   DIR/step-00000100/           complete: it has this name only when it is
//     index.json                 step, metadata, every rank file with its size and checksum
//     rank-00000.bin             header (JSON: its pieces, offsets, checksums), then raw floats
//   DIR/step-00000200.partial/   being written or removed, or left by a crash: ignored, and removed
//                                by the next save
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "real/group.h"

namespace reckon::real {

// Part of a whole-model tensor: the box [begin, begin + extent) of it, and of that box, flattened
// row by row, the elements [first, first + count). ZeRO-1 shards are flat ranges of a rank's box.
struct Piece {
  std::string tensor;               // e.g. "layers.3.mlp.up", "adam.m/layers.3.mlp.up"
  std::vector<std::int64_t> shape;  // of the whole tensor
  std::vector<std::int64_t> begin, extent;
  std::int64_t first = 0, count = 0;
};

struct SavedPiece {
  Piece piece;
  const float* values = nullptr;  // [count]
  // Where `values` lie if they were brought from a device for this piece.
  std::shared_ptr<const std::vector<float>> held = {};
};

struct SavedState {
  std::int64_t step = 0;
  std::string metadata;  // JSON text of the trainer: tokens seen, seed, model, plan
  std::vector<SavedPiece> pieces;
};

// Collective over `world`: every rank writes its file and syncs it to disk, then rank 0 writes the
// index and renames the folder; all return when it is in place. A crash at any moment leaves
// earlier checkpoints whole. Pieces that several ranks hold should be given by one of them. Then of
// the complete checkpoints of this and earlier steps all but the last `keep` (at least 1) are
// removed; those of later steps, from which this run did not go on, are left alone. `directory` is
// the same for all ranks: on several hosts, a shared file system.
//
// Throws std::system_error with the path where the disk says no: on every rank, so that all may
// also go on, with the earlier checkpoints as they were.
void save_checkpoint(const std::string& directory, const SavedState& state, int keep, Group& world);

// A complete checkpoint, read in pieces. Copies are cheap and share the mapped files; const calls
// from any thread.
class Checkpoint {
 public:
  // The newest complete one; none if there is none. A folder that is damaged (missing file, wrong
  // size, wrong checksum, unreadable index) is skipped; `damage`, if given, says which and why.
  static std::optional<Checkpoint> newest(const std::string& directory,
                                          std::vector<std::string>* damage);
  // A given folder. Reads every byte to compare its checksums. Throws InputError that says what is
  // wrong with it: the file, and the tensor where it is one.
  static Checkpoint open(const std::string& folder);

  const std::string& folder() const;
  std::int64_t step() const;
  const std::string& metadata() const;
  // Fills out[piece.count] from whatever pieces hold it. Throws InputError: no such tensor, another
  // shape (both named), a part that no piece holds.
  void read(const Piece& piece, float* out) const;
  bool has(const std::string& tensor) const;

 private:
  struct Contents;
  explicit Checkpoint(std::shared_ptr<const Contents> contents);
  std::shared_ptr<const Contents> contents_;
};

}  // namespace reckon::real
