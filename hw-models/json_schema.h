// The JSON Schema (draft-07) of a struct, from the same table of fields that reads it
// (json_fields.h).
#pragma once

#include "hw-models/json_fields.h"

namespace reckon::hw {

// Definitions that parts with a catalogue refer to, by name.
struct SchemaParts {
  ordered_json definitions = ordered_json::object();
};

// `overlay`: of an object that changes a base, so nothing is required.
template <class T>
ordered_json schema_of(SchemaParts& parts, const Rule& rule, bool overlay);

class SchemaWriter {
 public:
  SchemaWriter(SchemaParts& parts, bool overlay) : parts_(parts), overlay_(overlay) {}

  template <class T>
  void operator()(const char* key, T&&, const Rule& rule) {
    ordered_json s = schema_of<std::remove_cvref_t<T>>(parts_, rule, overlay_);
    // Draft-07 ignores what stands beside a $ref, editors show it all the same.
    ordered_json described = {{"description", rule.doc}};
    described.update(s);
    properties_[key] = std::move(described);
    if (rule.required && !overlay_) required_.push_back(key);
  }
  void notes(const char* key, const char* doc) {
    properties_[key] = {
        {"description", doc}, {"type", "object"}, {"additionalProperties", {{"type", "string"}}}};
  }
  void ignored(const char* key, const char* doc) {
    properties_[key] = {{"description", doc}, {"type", "string"}};
  }
  void add(const char* key, ordered_json schema, bool required) {
    properties_[key] = std::move(schema);
    if (required) required_.push_back(key);
  }
  ordered_json object() const {
    ordered_json o = {{"type", "object"}, {"properties", properties_}};
    if (!required_.empty()) o["required"] = required_;
    o["additionalProperties"] = false;
    return o;
  }

 private:
  SchemaParts& parts_;
  bool overlay_;
  ordered_json properties_ = ordered_json::object();
  ordered_json required_ = ordered_json::array();
};

template <class T>
ordered_json names_schema() {
  return {{"enum", catalogue_names<T>()}};
}

// What read_part accepts: a name, everything, or a base with changes; in an overlay, changes alone.
template <class T>
ordered_json part_schema(SchemaParts& parts, bool overlay) {
  const std::string full(Catalogue<T>::what), changes = full + " with changes";
  if (!parts.definitions.contains(changes)) {
    parts.definitions[changes] = nullptr;  // ends the recursion of parts within parts
    T part{};
    SchemaWriter all(parts, false), some(parts, true);
    fields(all, part);
    some.add("base", names_schema<T>(), false);
    fields(some, part);
    parts.definitions[full] = all.object();
    parts.definitions[changes] = some.object();
  }
  const auto reference = [](const std::string& name) {
    return ordered_json{{"$ref", "#/definitions/" + name}};
  };
  if (overlay) return {{"anyOf", {names_schema<T>(), reference(changes)}}};
  ordered_json based = {{"allOf", {reference(changes), {{"required", {"base"}}}}}};
  return {{"anyOf", {names_schema<T>(), reference(full), based}}};
}

template <class T>
ordered_json schema_of(SchemaParts& parts, const Rule& rule, bool overlay) {
  const auto bounded = [&](const char* type, double max) {
    return ordered_json{
        {"type", type}, {"minimum", rule.min}, {"maximum", std::min(rule.max, max)}};
  };
  const auto quantity = [](const UnitFamily& f) {
    return ordered_json{{"type", "string"}, {"pattern", unit_pattern(f)}};
  };
  if constexpr (requires { schema_custom(parts, static_cast<const T*>(nullptr)); }) {
    return schema_custom(parts, static_cast<const T*>(nullptr));
  } else if constexpr (requires { schema_custom(static_cast<const T*>(nullptr)); }) {
    return schema_custom(static_cast<const T*>(nullptr));
  } else if constexpr (std::is_same_v<T, bool>) {
    return {{"type", "boolean"}};
  } else if constexpr (std::is_integral_v<T>) {
    return bounded("integer", std::numeric_limits<int>::max());
  } else if constexpr (std::is_same_v<T, double>) {
    return rule.unit ? quantity(*rule.unit) : bounded("number", rule.max);
  } else if constexpr (std::is_same_v<T, std::string>) {
    return {{"type", "string"}};
  } else if constexpr (detail::UnitsOf<T>::exists) {
    return quantity(detail::UnitsOf<T>::family());
  } else if constexpr (std::is_enum_v<T>) {
    return {{"enum", spelling_texts<T>()}};
  } else if constexpr (detail::IsOptional<T>::value) {
    return schema_of<typename T::value_type>(parts, rule, overlay);
  } else if constexpr (detail::IsVector<T>::value) {
    return {{"type", "array"}, {"items", schema_of<typename T::value_type>(parts, rule, false)}};
  } else if constexpr (Catalogue<T>::exists) {
    return part_schema<T>(parts, overlay);
  } else {
    T part{};
    SchemaWriter w(parts, overlay);
    fields(w, part);
    return w.object();
  }
}

}  // namespace reckon::hw
