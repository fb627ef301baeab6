#include "hw-models/catalog.h"

#include <fmt/format.h>

#include "hw-models/catalogue_file.h"
#include "hw-models/embedded.h"
#include "sim/check.h"

namespace reckon::hw {

namespace {

std::string_view embedded_text(std::string_view name) {
  for (const EmbeddedFile& f : embedded_files())
    if (f.name == name) return f.text;
  check(false, "every catalogue file is embedded");
  return {};
}

template <class T>
std::map<std::string, T> load(const char* file) {
  return read_catalogue<T>(parse_json(std::string("catalog/") + file, embedded_text(file)));
}

template <class T>
const T& find_entry(const std::string& name) {
  const auto& entries = Catalogue<T>::entries();
  const auto it = entries.find(name);
  if (it == entries.end())
    throw InputError(
        fmt::format("expected the name of {} in the catalogue, got \"{}\"; did you mean \"{}\"?",
                    Catalogue<T>::what, name, nearest_spelling(name, catalogue_names<T>())));
  return it->second;
}

}  // namespace

const std::map<std::string, Gpu>& Catalogue<Gpu>::entries() {
  static const auto all = load<Gpu>("gpus.json");
  return all;
}
const std::map<std::string, Node>& Catalogue<Node>::entries() {
  static const auto all = load<Node>("nodes.json");
  return all;
}
const std::map<std::string, Fabric>& Catalogue<Fabric>::entries() {
  static const auto all = load<Fabric>("fabrics.json");
  return all;
}
const std::map<std::string, Cluster>& Catalogue<Cluster>::entries() {
  static const auto all = load<Cluster>("clusters.json");
  return all;
}
const std::map<std::string, Stack>& Catalogue<Stack>::entries() {
  static const auto all = load<Stack>("stacks.json");
  return all;
}

const Gpu& gpu(const std::string& name) {
  return find_entry<Gpu>(name);
}
const Node& node(const std::string& name) {
  return find_entry<Node>(name);
}
const Fabric& fabric(const std::string& name) {
  return find_entry<Fabric>(name);
}
const Cluster& cluster(const std::string& name) {
  return find_entry<Cluster>(name);
}
const Stack& stack(const std::string& name) {
  return find_entry<Stack>(name);
}

void read_notes(const Value& v, std::span<const std::string> keys) {
  v.expect_object("texts by key");
  for (const auto& [key, text] : v.json().items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) v.fail_key(key, keys);
    read_text(*v.find(key));
  }
}

void finish(const Value& v, TopologyShape& t) {
  if (t.kind == TopologyShape::Kind::FatTree) return;
  for (const char* key : {"layers", "rails"})
    if (const auto given = v.find(key)) given->fail("only with kind \"fat-tree\"");
  if (t.wiring != TopologyShape::Wiring::Node)
    v.find("wiring").value_or(v).fail("\"node\" with kind \"dragonfly\"");
}

void finish(const Value& v, Cluster& c) {
  if (c.gpus > c.node.gpus && c.gpus % c.node.gpus != 0)
    v.find("gpus").value_or(v).fail_got(
        fmt::format("a multiple of the node's {} GPUs (or set /node/gpus to those in use)",
                    c.node.gpus),
        fmt::format("{}", c.gpus));
}

}  // namespace reckon::hw
