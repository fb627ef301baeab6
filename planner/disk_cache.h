// Results kept on disk by what they are results of: one file an entry, named by the hash of its
// question. Any number of processes may read and write at once; a reader gets a whole entry or
// none, whatever happened to a writer or to the file since.
//
// An entry is written to a file of another name, synced, and renamed. It holds its key, its length
// and a checksum; what does not fit them is no entry, and is written again.
//
// Not modelled: a limit of size. Entries are some dozens of bytes; the folder may be deleted at any
// time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace reckon::plan {

class DiskCache {
 public:
  // 128 bits of XXH3.
  struct Key {
    std::uint64_t high = 0, low = 0;
    bool operator==(const Key&) const = default;
  };
  static Key key_of(std::string_view question);

  // `folder` is made when the first entry is written. Empty: nothing is kept.
  explicit DiskCache(std::string folder) : folder_(std::move(folder)) {}

  // $XDG_CACHE_HOME/reckon, or ~/.cache/reckon; empty: neither variable is set.
  static std::string usual_folder();

  std::optional<std::string> read(Key key) const;

  // False: it can't be written, and why is in `failure`; nothing else is lost by that.
  bool write(Key key, std::string_view answer, std::string* failure = nullptr) const;

  const std::string& folder() const { return folder_; }
  std::string path(Key key) const;

 private:
  void sweep() const;

  std::string folder_;
  mutable bool swept_ = false;  // of what killed writers left
};

}  // namespace reckon::plan
