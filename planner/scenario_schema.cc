#include "planner/scenario_schema.h"

#include "hw-models/json_schema.h"
#include "planner/scenario_fields.h"

namespace reckon::plan {

hw::ordered_json schema_custom(const ModuleSet*) {
  return {{"type", "array"},
          {"items", {{"enum", hw::spelling_texts<RecomputeModule>()}}},
          {"uniqueItems", true}};
}

hw::ordered_json schema_custom(hw::SchemaParts& parts, const LayoutChoice*) {
  hw::ordered_json chunks = hw::schema_of<std::vector<ChunkLayout>>(parts, {}, false);
  chunks["minItems"] = 1;
  return {{"anyOf", {{{"enum", {"balanced"}}}, chunks}}};
}

hw::ordered_json schema_custom(const DenseLayers*) {
  return {{"type", "array"},
          {"items", {{"type", "integer"}, {"minimum", 0}, {"maximum", kMaxLayers - 1}}},
          {"uniqueItems", true}};
}

hw::ordered_json schema_custom(const WindowPattern*) {
  return {{"type", "array"}, {"items", {{"type", "integer"}, {"minimum", 0}, {"maximum", 1e9}}}};
}

hw::ordered_json schema_custom(hw::SchemaParts& parts, const ModelPart*) {
  hw::ordered_json model = hw::part_schema<ModelShape>(parts, false);
  hw::SchemaWriter imported(parts, true);
  ModelShape shape;
  imported.add("hf_config", {{"type", "string"}}, true);
  fields(imported, shape);
  model["anyOf"].push_back(imported.object());
  return model;
}

hw::ordered_json scenario_schema() {
  hw::SchemaParts parts;
  hw::SchemaWriter w(parts, false);
  Scenario s;
  fields(w, s);
  hw::ordered_json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                             {"title", "reckon scenario"}};
  schema.update(w.object());
  schema["definitions"] = parts.definitions;
  return schema;
}

}  // namespace reckon::plan
