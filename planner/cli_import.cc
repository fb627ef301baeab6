// `reckon import`: a Hugging Face config.json as the "model" part of a scenario.
#include <fmt/format.h>

#include "planner/cli.h"
#include "planner/file.h"
#include "planner/import_hf.h"
#include "planner/model_fields.h"
#include "planner/report.h"

namespace reckon::plan {

int import_command(const ImportOptions& options, const CommonOptions& common) {
  const hw::Document document = hw::read_json_file(options.config);
  ModelShape model = import_hf(hw::Value(document));
  if (!options.name.empty()) model.name = options.name;
  const ordered_json part = hw::to_json(model);
  const Params p = parameters(model);
  const double total = static_cast<double>(p.total()),
               without_mtp = static_cast<double>(p.total(false)),
               activated = static_cast<double>(activated_parameters(model));

  if (!options.output.empty()) write_file(options.output, part.dump(2) + "\n");
  if (common.json) {
    fmt::print("{}\n", ordered_json{{"model", part},
                                    {"parameters",
                                     {{"total", p.total()},
                                      {"without_mtp", p.total(false)},
                                      {"activated", activated_parameters(model)}}}}
                           .dump(2));
    return kDone;
  }
  if (options.output.empty()) fmt::print("{}\n", part.dump(2));
  fmt::print(stderr, "{}: {} parameters{}, {} activated by a token\n", model.name,
             short_count(total),
             model.mtp_depth > 0
                 ? fmt::format(" ({} without multi-token prediction)", short_count(without_mtp))
                 : "",
             short_count(activated));
  return kDone;
}

}  // namespace reckon::plan
