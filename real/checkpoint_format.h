// What a checkpoint looks like on disk, for those who write and read it.
//
//   rank-00000.bin   FileHead; header_bytes of JSON, {"pieces": [{"tensor", "shape", "begin",
//                    "extent", "first", "count", "offset", "checksum"}, ...]}, with spaces at its
//                    end; then the values of the pieces, floats, little endian, "offset" floats
//                    after the first
//   index.json       {"format", "version", "step", "metadata", "files": [{"bytes", "checksum"} by
//                    rank], "checksum"}: the checksum of a file is that of its header, which holds
//                    those of its values; the last is that of the index without it, as dumped
#pragma once

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

namespace reckon::real {

inline constexpr const char* kCheckpointFormat = "reckon checkpoint";
inline constexpr int kCheckpointVersion = 1;
inline constexpr std::array<char, 8> kRankFileMagic = {'r', 'e', 'c', 'k', 'o', 'n', 'C', '1'};

struct FileHead {
  std::array<char, 8> magic = kRankFileMagic;
  std::uint64_t header_bytes = 0, header_checksum = 0;
};
static_assert(std::endian::native == std::endian::little && sizeof(FileHead) == 24);

inline std::string rank_file_name(std::size_t rank) {
  return fmt::format("rank-{:05}.bin", rank);
}

inline std::string step_folder(const std::string& directory, std::int64_t step) {
  return fmt::format("{}/step-{:08}", directory, step);
}

inline constexpr const char* kPartial = ".partial";  // ends the name of a folder to be ignored

// The step of a complete checkpoint's folder, or -1 if the name is none of one.
inline std::int64_t step_of(const std::string& name) {
  constexpr std::size_t kStart = 5;
  if (name.size() < kStart + 8 || name.size() > kStart + 18 || name.rfind("step-", 0) != 0 ||
      name.find_first_not_of("0123456789", kStart) != std::string::npos)
    return -1;
  return std::stoll(name.substr(kStart));
}

}  // namespace reckon::real
