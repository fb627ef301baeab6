// Plain text tables for a terminal: columns aligned, two spaces between them.
#pragma once

#include <string>
#include <vector>

namespace reckon::plan {

enum class Align { Left, Right };

struct Column {
  std::string title;
  Align align = Align::Right;
};

struct Table {
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;  // each as long as `columns`
  bool header = true;
};

// One line a row, each starting with `indent` spaces, none ending with one. Widths count code
// points.
std::string text(const Table& table, int indent = 2);

// `words` filled to lines of at most `width` characters, each starting with `indent` spaces.
std::string wrapped(const std::string& words, int indent = 2, int width = 100);

}  // namespace reckon::plan
