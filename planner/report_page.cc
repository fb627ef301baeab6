// Fills report_page/page.html: each line that is only {{NAME}} is replaced by a file or the data.
#include "planner/report_page.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/evidence.h"
#include "planner/report_page/embedded.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::plan {
namespace {

using nlohmann::ordered_json;

std::string file(const std::vector<hw::EmbeddedFile>& files, std::string_view name) {
  const auto it = std::find_if(files.begin(), files.end(),
                               [&](const hw::EmbeddedFile& f) { return f.name == name; });
  check(it != files.end(), "the page's files are in the program");
  return std::string(it->text);
}

void fill(std::string& page, const std::string& name, const std::string& text) {
  const std::string place = "{{" + name + "}}";
  const std::size_t at = page.find(place);
  check(at != std::string::npos, "the page has a place for each of its parts");
  page.replace(at, place.size(), text);
}

std::string html(const std::string& text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  return out;
}

// JSON inside a script element: neither "</script" nor "<!--" may occur, in any case of letters
// (HTML standard, 4.12.1.3); "<" in JSON only stands in strings.
std::string in_script(const ordered_json& value) {
  std::string out;
  for (const char c : value.dump(-1, ' ', true)) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

}  // namespace

ordered_json step_figures(const SimulatedStep& s, const std::vector<Elasticity>& elasticities) {
  ordered_json sensitivity = ordered_json::array();
  const auto asked = [](Seconds t) { return t.si > 0 ? ordered_json(t.si) : nullptr; };
  for (const Elasticity& e : elasticities)
    sensitivity.push_back({{"key", e.key},
                           {"what", e.description},
                           {"less", e.less},
                           {"half_s", asked(e.half)},
                           {"twice_s", asked(e.twice)}});
  return {{"timeline", timeline_figure(s)},
          {"memory", memory_figure(s)},
          {"roofline", roofline_figure(s)},
          {"sensitivity", sensitivity},
          {"evidence", evidence_figure(s.scenario)}};
}

void require_page_library() {
  if (page::library_files().empty())
    throw InputError(
        "--report: this program was built without the charting library of its pages; expected D3 "
        "(Debian: ./setup packages node-d3, then cmake --preset release and build again)");
}

std::string report_page(const PageContent& c) {
  require_page_library();
  ordered_json data = {{"command", c.command}, {"title", c.title},     {"headline", c.headline},
                       {"meets", nullptr},     {"verdict", c.verdict}, {"answer", c.answer},
                       {"figures", c.figures}};
  if (c.meets) data["meets"] = *c.meets;
  if (data["answer"].contains("search")) data["answer"]["search"].erase("wall_s");
  std::string page = file(page::embedded_files(), "page.html");
  fill(page, "STYLE", file(page::embedded_files(), "page.css"));
  fill(page, "LICENCE", html(file(page::library_files(), "copyright")));
  fill(page, "LIBRARY", file(page::library_files(), "d3.min.js"));
  fill(page, "FIGURES", file(page::embedded_files(), "figures.js"));
  fill(page, "POINT_FIGURES", file(page::embedded_files(), "point_figures.js"));
  fill(page, "ANSWERS", file(page::embedded_files(), "answers.js"));
  fill(page, "SCRIPT", file(page::embedded_files(), "page.js"));
  fill(page, "DATA", in_script(data));
  // Last: its place is the first in the page, whatever the data say.
  fill(page, "TITLE", html(c.title + ": reckon " + c.command));
  return page;
}

}  // namespace reckon::plan
