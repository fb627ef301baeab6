#include "real/disk_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "sim/input_error.h"

namespace reckon::real {
namespace {

[[noreturn]] void system_failure(const std::string& path, const char* what) {
  throw std::system_error(errno, std::generic_category(), path + ": " + what);
}

constexpr std::size_t kBufferBytes = 256 << 10;  // a system call for that much costs nothing

// 0, or errno.
int write_all(int fd, const char* bytes, std::size_t count) {
  while (count > 0) {
    const ssize_t n = ::write(fd, bytes, count);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    bytes += n;
    count -= static_cast<std::size_t>(n);
  }
  return 0;
}

}  // namespace

std::uint64_t checksum(const void* bytes, std::size_t count, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes, count, seed);
}

std::string checksum_text(std::uint64_t checksum) {
  return fmt::format("{:016x}", checksum);
}

NewFile::NewFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail("can't create");
}

NewFile::~NewFile() {
  if (fd_ >= 0) ::close(fd_);
}

void NewFile::fail(const char* what) const {
  system_failure(path_, what);
}

void NewFile::write(const void* bytes, std::size_t count) {
  const char* at = static_cast<const char*>(bytes);
  if (buffer_.size() + count > kBufferBytes) flush();
  if (count <= kBufferBytes) {
    buffer_.insert(buffer_.end(), at, at + count);
    return;
  }
  if (const int error = write_all(fd_, at, count)) errno = error, fail("can't write");
}

void NewFile::flush() {
  if (const int error = write_all(fd_, buffer_.data(), buffer_.size()))
    errno = error, fail("can't write");
  buffer_.clear();
}

void NewFile::write_at_start(const void* bytes, std::size_t count) {
  flush();
  const off_t end = ::lseek(fd_, 0, SEEK_CUR);
  if (end < 0 || ::lseek(fd_, 0, SEEK_SET) < 0) fail("can't seek");
  write(bytes, count);
  flush();
  if (::lseek(fd_, end, SEEK_SET) < 0) fail("can't seek");
}

void NewFile::finish() {
  flush();
  if (::fsync(fd_) != 0) fail("can't write");
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) fail("can't write");
}

void sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) system_failure(folder, "can't open");
  // Some network file systems refuse to sync folders (EINVAL); they keep names in order themselves.
  const bool failed = ::fsync(fd) != 0 && errno != EINVAL;
  const int error = errno;
  ::close(fd);
  errno = error;
  if (failed) system_failure(folder, "can't sync");
}

void replace_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) system_failure(to, "can't rename to it");
  const std::string folder = std::filesystem::path(to).parent_path().string();
  sync_folder(folder.empty() ? "." : folder);
}

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  const auto fail = [&](const char* what, int error) {
    throw InputError(path_ + ": " + what + ": " + std::strerror(error));
  };
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("can't open", errno);
  struct stat status;
  int error = ::fstat(fd, &status) == 0 ? 0 : errno;
  if (error == 0 && !S_ISREG(status.st_mode)) error = S_ISDIR(status.st_mode) ? EISDIR : ESPIPE;
  if (error == 0 && status.st_size > 0) {
    size_ = static_cast<std::size_t>(status.st_size);
    void* const at = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED)
      error = errno;
    else
      bytes_ = static_cast<const std::byte*>(at);
  }
  ::close(fd);
  if (error != 0) fail("can't read", error);
}

MappedFile::~MappedFile() {
  if (bytes_ != nullptr) ::munmap(const_cast<std::byte*>(bytes_), size_);
}

}  // namespace reckon::real
