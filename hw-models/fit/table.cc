#include "hw-models/fit/table.h"

#include <fmt/format.h>
#include <zlib.h>

#include <memory>
#include <sstream>

#include "sim/input_error.h"

namespace reckon::fit {

namespace {

// Fields of one line; a quoted field may hold commas, "" stands for a quote.
std::vector<std::string> fields(const std::string& line) {
  std::vector<std::string> out(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"')
        out.back() += line[++i];
      else
        quoted = !quoted;
    } else if (c == ',' && !quoted) {
      out.emplace_back();
    } else if (c != '\r') {
      out.back() += c;
    }
  }
  return out;
}

// The whole file; gzip is decompressed, plain text passes through.
std::string read_text(const std::string& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) throw InputError(fmt::format("{}: expected a readable file", path));
  std::string text(1 << 16, '\0');
  std::size_t size = 0;
  for (;;) {
    const int got =
        gzread(file.get(), text.data() + size, static_cast<unsigned>(text.size() - size));
    if (got < 0) throw InputError(fmt::format("{}: expected a whole gzip file", path));
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size == text.size()) text.resize(2 * size);
  }
  text.resize(size);
  return text;
}

}  // namespace

std::vector<CsvRow> read_csv(const std::string& path) {
  std::istringstream in(read_text(path));
  std::string line;
  std::getline(in, line);
  const std::vector<std::string> header = fields(line);
  std::vector<CsvRow> rows;
  while (std::getline(in, line)) {
    const std::vector<std::string> values = fields(line);
    if (values.size() != header.size())
      throw InputError(fmt::format("{}:{}: expected {} fields, got {}", path, rows.size() + 2,
                                   header.size(), values.size()));
    CsvRow row;
    for (std::size_t i = 0; i < header.size(); ++i) row[header[i]] = values[i];
    rows.push_back(std::move(row));
  }
  return rows;
}

nlohmann::json read_json(const std::string& path) {
  try {
    return nlohmann::json::parse(read_text(path));
  } catch (const nlohmann::json::exception& e) {
    throw InputError(fmt::format("{}: {}", path, e.what()));
  }
}

bool left_out(const std::string& key, unsigned one_in) {
  std::uint32_t h = 2166136261u;  // FNV-1a
  for (const char c : key) h = (h ^ static_cast<unsigned char>(c)) * 16777619u;
  h ^= h >> 15;
  return h % one_in == 0;
}

}  // namespace reckon::fit
