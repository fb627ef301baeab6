// Failures by name, from the embedded catalog/failures.json.
#include <algorithm>

#include "hw-models/catalogue_file.h"
#include "planner/embedded.h"
#include "planner/failure_fields.h"
#include "sim/check.h"

namespace reckon::plan {

void finish(const hw::Value& v, FailureSpec& f) {
  if (f.classes.empty()) v.find("classes").value_or(v).fail("at least one class");
}

}  // namespace reckon::plan

namespace reckon::hw {

const std::map<std::string, plan::FailureSpec>& Catalogue<plan::FailureSpec>::entries() {
  static const auto all = [] {
    const auto& files = plan::embedded_files();
    const auto it = std::find_if(files.begin(), files.end(),
                                 [](const EmbeddedFile& f) { return f.name == "failures.json"; });
    check(it != files.end(), "the catalogue has failures");
    return read_catalogue<plan::FailureSpec>(parse_json("catalog/failures.json", it->text));
  }();
  return all;
}

}  // namespace reckon::hw
