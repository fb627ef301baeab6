// gnuplot writes beside the file, which then takes its place.
#include "planner/gnuplot.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "planner/file.h"
#include "sim/input_error.h"

namespace reckon::plan {

void draw_with_gnuplot(const std::string& file,
                       const std::function<std::string(const std::string&)>& script) {
  const std::string temporary = file + fmt::format(".{}", ::getpid());
  std::FILE* gnuplot = ::popen("gnuplot -", "w");
  if (gnuplot == nullptr) throw InputError("--chart: can't start gnuplot");
  const std::string text = script(temporary);
  std::fwrite(text.data(), 1, text.size(), gnuplot);
  const bool drawn = ::pclose(gnuplot) == 0 && std::filesystem::exists(temporary);
  if (drawn) write_file(file, read_file(temporary));
  std::error_code error;
  std::filesystem::remove(temporary, error);
  if (!drawn) throw InputError(fmt::format("--chart {}: gnuplot failed (is it installed?)", file));
}

std::string gnuplot_text(std::string text) {
  std::replace(text.begin(), text.end(), '"', '\'');
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::replace(text.begin(), text.end(), '\\', '/');
  return text;
}

}  // namespace reckon::plan
