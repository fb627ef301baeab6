// Files as checkpoints and token data need them: written so that what is finished is on disk, read
// through memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace reckon::real {

// XXH3, 64 bits: of the bytes, continued over `seed`.
std::uint64_t checksum(const void* bytes, std::size_t count, std::uint64_t seed = 0);
std::string checksum_text(std::uint64_t checksum);  // 16 hexadecimal digits

// A file that is being written from its start. Throws std::system_error with the path.
class NewFile {
 public:
  explicit NewFile(std::string path);  // replaces what is there
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* bytes, std::size_t count);           // after what was written before
  void write_at_start(const void* bytes, std::size_t count);  // over what stands there
  void finish();                                              // on disk and closed

 private:
  void flush();
  [[noreturn]] void fail(const char* what) const;
  std::string path_;
  int fd_ = -1;
  std::vector<char> buffer_;  // of small writes
};

// The names in a folder are on disk: what was created, renamed or removed before stays so.
// Throws std::system_error.
void sync_folder(const std::string& folder);

// Renames `from` over `to`, on disk. Throws std::system_error.
void replace_file(const std::string& from, const std::string& to);

// A whole file, mapped for reading. Throws InputError with the path.
class MappedFile {
 public:
  explicit MappedFile(std::string path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const std::byte* bytes() const { return bytes_; }
  std::size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_), size_}; }

 private:
  std::string path_;
  const std::byte* bytes_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace reckon::real
