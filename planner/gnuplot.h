// Pictures by gnuplot.
#pragma once

#include <functional>
#include <string>

namespace reckon::plan {

// Draws what `script` (given the file to write) says into `file`, whole or not at all. Errors:
// InputError if gnuplot can't be started or fails.
void draw_with_gnuplot(const std::string& file,
                       const std::function<std::string(const std::string& output)>& script);

// Of a text within double quotes of a script.
std::string gnuplot_text(std::string text);

}  // namespace reckon::plan
