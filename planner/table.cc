#include "planner/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "sim/check.h"

namespace reckon::plan {
namespace {

// UTF-8: every byte but the continuation bytes 10xxxxxx starts a code point.
std::size_t width(const std::string& cell) {
  return static_cast<std::size_t>(std::count_if(
      cell.begin(), cell.end(), [](char c) { return (static_cast<unsigned char>(c) >> 6) != 2; }));
}

}  // namespace

std::string text(const Table& table, int indent) {
  std::vector<std::vector<std::string>> lines;
  if (table.header) {
    lines.emplace_back();
    for (const Column& c : table.columns) lines.back().push_back(c.title);
  }
  for (const auto& row : table.rows) {
    check(row.size() == table.columns.size(), "a row has one cell per column");
    lines.push_back(row);
  }
  std::vector<std::size_t> widths(table.columns.size(), 0);
  for (const auto& line : lines)
    for (std::size_t c = 0; c < line.size(); ++c) widths[c] = std::max(widths[c], width(line[c]));

  std::string out;
  for (const auto& line : lines) {
    std::string printed(static_cast<std::size_t>(indent), ' ');
    for (std::size_t c = 0; c < line.size(); ++c) {
      const std::string padding(widths[c] - width(line[c]), ' ');
      if (c > 0) printed += "  ";
      printed += table.columns[c].align == Align::Left ? line[c] + padding : padding + line[c];
    }
    printed.erase(printed.find_last_not_of(' ') + 1);
    out += printed + '\n';
  }
  return out;
}

std::string wrapped(const std::string& words, int indent, int width_limit) {
  std::istringstream in(words);
  std::string out, line, word;
  const std::string margin(static_cast<std::size_t>(indent), ' ');
  while (in >> word) {
    if (!line.empty() &&
        margin.size() + width(line) + 1 + width(word) > static_cast<std::size_t>(width_limit)) {
      out += margin + line + '\n';
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  if (!line.empty()) out += margin + line + '\n';
  return out;
}

}  // namespace reckon::plan
