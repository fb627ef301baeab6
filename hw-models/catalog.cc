#include "hw-models/catalog.h"

#include <fmt/format.h>

#include <filesystem>

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

void finish(const Value& v, TopologyLink& l) {
  for (const char* key : {"from", "to"})
    if ((key[0] == 'f' ? l.from : l.to).empty())
      v.find(key)->fail("\"gpu3\", \"gpu[0-7]\" or the name of a switch");
}

void finish(const Value& v, TopologyShape& t) {
  using Kind = TopologyShape::Kind;
  const bool rule = t.kind == Kind::FatTree || t.kind == Kind::Dragonfly;
  struct Key {
    const char* name;
    bool taken, needed;
  };
  // A part that starts from a base keeps what it has, unless it states its kind.
  const bool stated = v.find("kind").has_value();
  if (stated && t.kind != Kind::FatTree) {
    if (!v.find("wiring")) t.wiring = TopologyShape::Wiring::Node;
    t.layers = v.find("layers") ? t.layers : 0;
    t.rails = v.find("rails") ? t.rails : 0;
    if (!rule && !v.find("radix")) t.radix = 0;
    if (t.kind == Kind::Platform && !v.find("routing")) t.routing = TopologyShape::Routing::Ecmp;
  }
  const Key keys[] = {{"radix", rule, rule},
                      {"layers", t.kind == Kind::FatTree, false},
                      {"rails", t.kind == Kind::FatTree, false},
                      {"wiring", true, rule},
                      {"routing", true, t.kind != Kind::Platform},
                      {"links", t.kind == Kind::Edges, t.kind == Kind::Edges},
                      {"platform", t.kind == Kind::Platform, t.kind == Kind::Platform}};
  for (const Key& k : keys) {
    const auto given = v.find(k.name);
    if (given && !k.taken)
      given->fail(fmt::format("nothing: it is not of kind \"{}\"", spelling(t.kind)));
    if (!given && k.needed && stated)
      v.fail_got(fmt::format("the key \"{}\" with kind \"{}\"", k.name, spelling(t.kind)),
                 "an object without it");
  }
  if (t.kind != Kind::FatTree && t.wiring != TopologyShape::Wiring::Node)
    v.find("wiring").value_or(v).fail(fmt::format("\"node\" with kind \"{}\"", spelling(t.kind)));
  if (t.kind == Kind::Platform && t.routing != TopologyShape::Routing::Ecmp)
    v.find("routing").value_or(v).fail("\"ecmp\" with kind \"simgrid\": the file says the ways");
  if (t.kind == Kind::Platform)
    t.platform = (std::filesystem::path(v.document().file).parent_path() / t.platform)
                     .lexically_normal()
                     .string();
}

void finish(const Value& v, Cluster& c) {
  if (c.gpus > c.node.gpus && c.gpus % c.node.gpus != 0)
    v.find("gpus").value_or(v).fail_got(
        fmt::format("a multiple of the node's {} GPUs (or set /node/gpus to those in use)",
                    c.node.gpus),
        fmt::format("{}", c.gpus));
}

}  // namespace reckon::hw
