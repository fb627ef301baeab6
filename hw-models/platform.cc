// Reads the tree of zones, then answers for ways by walking it: up to the zone that has both ends,
// over its route between the two parts, and down again; inside a zone by the listed route (Full) or
// the least number of routes (Floyd, Dijkstra).
#include "hw-models/platform.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <pugixml.hpp>
#include <set>
#include <span>
#include <sstream>

#include "hw-models/strict_json.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::hw {

namespace {

constexpr std::uint32_t kNone = ~0u;

struct Route {
  std::vector<std::uint32_t> links;
  std::string gateway_from, gateway_to;  // of routes between zones
};

struct Zone {
  std::string name, routing;
  std::uint32_t parent = kNone;
  std::map<std::pair<std::string, std::string>, Route> routes;  // by the names of the ends
  std::map<std::string, std::vector<std::string>> next;         // ends of routes from each end
  // Of a cluster: the links of each host, and the backbone.
  struct Port {
    std::uint32_t up = kNone, down = kNone;
  };
  std::map<std::string, Port> ports;
  std::uint32_t backbone = kNone;
  bool star = false;
};

struct PlatformUnit {
  const char* name;
  double factor;
};
constexpr PlatformUnit kPlatformRates[] = {
    {"Bps", 1},        {"kBps", 1e3},     {"MBps", 1e6},     {"GBps", 1e9},     {"TBps", 1e12},
    {"KiBps", 0x1p10}, {"MiBps", 0x1p20}, {"GiBps", 0x1p30}, {"TiBps", 0x1p40}, {"bps", 0.125},
    {"kbps", 125},     {"Mbps", 125e3},   {"Gbps", 125e6},   {"Tbps", 125e9},   {"Kibps", 0x1p7},
    {"Mibps", 0x1p17}, {"Gibps", 0x1p27}, {"Tibps", 0x1p37}};
constexpr PlatformUnit kPlatformTimes[] = {{"s", 1},      {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9},
                                           {"ps", 1e-12}, {"m", 60},    {"h", 3600},  {"d", 86400}};

}  // namespace

struct Platform::Tree {
  std::vector<Zone> zones;
  std::map<std::string, std::uint32_t> zone_of;  // hosts, routers, and zones themselves: in which
  std::string file;

  bool inside(std::uint32_t zone, std::uint32_t of) const {
    for (; zone != kNone; zone = zones[zone].parent)
      if (zone == of) return true;
    return false;
  }
  // The part of `zone` that holds a point: the point itself, or a zone in it.
  std::string part(const std::string& point, std::uint32_t zone) const {
    std::uint32_t z = zone_of.at(point);
    if (z == zone) return point;
    while (zones[z].parent != zone) z = zones[z].parent;
    return zones[z].name;
  }
  // From a point to another, over a zone that has them in its parts a and b.
  struct Trip {
    const std::string &from, &to;
    std::string a, b;
  };
  void between(const std::string& from, const std::string& to,
               std::vector<std::uint32_t>& way) const;
  void local(const Zone& zone, const Trip& trip, std::vector<std::uint32_t>& way) const;
  [[noreturn]] void no_way(const std::string& from, const std::string& to) const {
    throw InputError(fmt::format("{}: expected a route from \"{}\" to \"{}\"", file, from, to));
  }
};

// From a point to another, over the zone that holds both.
void Platform::Tree::between(const std::string& from, const std::string& to,
                             std::vector<std::uint32_t>& way) const {
  if (from == to) return;
  std::uint32_t z = zone_of.at(from);
  while (!inside(zone_of.at(to), z)) z = zones[z].parent;
  local(zones[z], {from, to, part(from, z), part(to, z)}, way);
}

void Platform::Tree::local(const Zone& zone, const Trip& trip,
                           std::vector<std::uint32_t>& way) const {
  const auto& [from, to, a, b] = trip;
  if (zone.star) {
    const Zone::Port none, &up = zone.ports.contains(a) ? zone.ports.at(a) : none,
                           &down = zone.ports.contains(b) ? zone.ports.at(b) : none;
    for (std::uint32_t l : {up.up, zone.backbone, down.down})
      if (l != kNone && std::find(way.begin(), way.end(), l) == way.end()) way.push_back(l);
    return;
  }
  if (const auto direct = zone.routes.find({a, b}); direct != zone.routes.end()) {
    const Route& r = direct->second;
    if (!r.gateway_from.empty()) between(from, r.gateway_from, way);
    way.insert(way.end(), r.links.begin(), r.links.end());
    if (!r.gateway_to.empty()) between(r.gateway_to, to, way);
    return;
  }
  if (zone.routing != "Floyd" && zone.routing != "Dijkstra" && zone.routing != "DijkstraCache")
    no_way(from, to);
  // The least number of links; of equal ones the first that the search meets.
  std::map<std::string, std::pair<std::size_t, std::string>> reached = {{a, {0, ""}}};
  std::set<std::pair<std::size_t, std::string>> open = {{0, a}};
  while (!open.empty()) {
    const auto [length, at] = *open.begin();
    open.erase(open.begin());
    if (at == b) break;
    if (const auto list = zone.next.find(at); list != zone.next.end())
      for (const std::string& next : list->second) {
        const std::size_t total = length + zone.routes.at({at, next}).links.size();
        const auto it = reached.find(next);
        if (it != reached.end() && it->second.first <= total) continue;
        if (it != reached.end()) open.erase({it->second.first, next});
        reached[next] = {total, at};
        open.insert({total, next});
      }
  }
  if (!reached.contains(b)) no_way(from, to);
  std::vector<std::string> points = {b};
  while (points.back() != a) points.push_back(reached.at(points.back()).second);
  std::reverse(points.begin(), points.end());
  std::string at = from;
  for (std::size_t i = 1; i < points.size(); ++i) {
    const Route& r = zone.routes.at({points[i - 1], points[i]});
    const bool last = i + 1 == points.size();
    if (!r.gateway_from.empty()) between(at, r.gateway_from, way);
    way.insert(way.end(), r.links.begin(), r.links.end());
    at = r.gateway_to.empty() ? points[i] : r.gateway_to;
    if (last) between(at, to, way);
  }
}

namespace {

class Reader {
 public:
  Reader(std::string path, std::string text) : path_(std::move(path)), text_(std::move(text)) {}

  struct Result {
    std::vector<std::string> hosts;
    std::vector<Platform::Link> links;
    std::shared_ptr<Platform::Tree> tree = std::make_shared<Platform::Tree>();
  };
  Result read();

 private:
  using Node = pugi::xml_node;

  [[noreturn]] void fail(std::ptrdiff_t offset, const std::string& what) const {
    const auto end = text_.begin() + std::min(offset, static_cast<std::ptrdiff_t>(text_.size()));
    throw InputError(
        fmt::format("{}:{}: {}", path_, 1 + std::count(text_.begin(), end, '\n'), what));
  }
  [[noreturn]] void fail(Node n, const std::string& what) const {
    fail(n.offset_debug(), fmt::format("<{}>: {}", n.name(), what));
  }

  // `skipped`: attributes that say nothing about the network.
  void expect_keys(Node n, std::vector<std::string> taken,
                   const std::vector<std::string>& skipped = {}) const {
    taken.insert(taken.end(), skipped.begin(), skipped.end());
    for (const pugi::xml_attribute& a : n.attributes())
      if (std::find(taken.begin(), taken.end(), a.name()) == taken.end()) {
        const std::string nearest = nearest_spelling(a.name(), taken);
        fail(n,
             fmt::format("expected one of the attributes {}, got \"{}\"{}", fmt::join(taken, ", "),
                         a.name(), nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
      }
  }
  std::string text(Node n, const char* key) const {
    const pugi::xml_attribute a = n.attribute(key);
    if (!a || *a.value() == '\0') fail(n, fmt::format("expected the attribute \"{}\"", key));
    return a.value();
  }
  double number(Node n, const char* key, std::span<const PlatformUnit> units,
                const char* what) const {
    const std::string t = text(n, key);
    double value = 0;
    const auto r = std::from_chars(t.data(), t.data() + t.size(), value);
    std::string unit(r.ptr, t.data() + t.size());
    if (r.ec == std::errc() && unit.empty()) unit = units[0].name;
    for (const PlatformUnit& u : units)
      if (r.ec == std::errc() && unit == u.name && value >= 0) return value * u.factor;
    fail(n, fmt::format("{}: expected {}, got \"{}\"", key, what, t));
  }
  BytesPerSecond rate(Node n, const char* key) const {
    const double r =
        number(n, key, kPlatformRates, "a bandwidth such as \"50GBps\" or \"400Gbps\"");
    if (r <= 0) fail(n, fmt::format("{}: expected a bandwidth above 0", key));
    return BytesPerSecond(r);
  }
  Seconds time(Node n, const char* key) const {
    if (!n.attribute(key)) return Seconds(0);
    return Seconds(number(n, key, kPlatformTimes, "a time such as \"5us\""));
  }
  bool yes(Node n, const char* key, bool otherwise) const {
    if (!n.attribute(key)) return otherwise;
    const std::string t = text(n, key);
    if (t == "YES" || t == "yes") return true;
    if (t == "NO" || t == "no") return false;
    fail(n, fmt::format("{}: expected YES or NO, got \"{}\"", key, t));
  }

  struct Ends {
    std::uint32_t up = kNone, down = kNone;  // one link where it has no directions
  };
  Ends add_link(Node n, const Platform::Link& link, const std::string& policy) {
    Ends e;
    const auto add = [&](const std::string& name) {
      out_.links.push_back({name, link.rate, link.latency, policy == "FATPIPE"});
      return static_cast<std::uint32_t>(out_.links.size() - 1);
    };
    if (policy == "SPLITDUPLEX" || policy == "FULLDUPLEX") {
      e.up = add(link.name + "_UP");
      e.down = add(link.name + "_DOWN");
    } else if (policy == "SHARED" || policy == "FATPIPE") {
      e.up = e.down = add(link.name);
    } else {
      fail(n, fmt::format("expected the sharing policy SHARED, SPLITDUPLEX or FATPIPE, got \"{}\"",
                          policy));
    }
    return e;
  }
  void add_point(Node n, const std::string& name, std::uint32_t zone) {
    if (!out_.tree->zone_of.emplace(name, zone).second)
      fail(n, fmt::format("expected another name, \"{}\" is taken", name));
  }
  void no_children(Node n) const {
    for (Node c : n.children())
      if (c.type() == pugi::node_element && std::string(c.name()) != "prop")
        fail(c, fmt::format("not understood in <{}>", n.name()));
  }

  void zone(Node n, std::uint32_t parent);
  void link(Node n);
  void cluster(Node n, std::uint32_t parent);
  void route(Node n, std::uint32_t zone, bool zones);

  std::string path_, text_;
  Result out_;
  std::map<std::string, Ends> links_;
};

void Reader::link(Node n) {
  expect_keys(n, {"id", "bandwidth", "latency", "sharing_policy"});
  no_children(n);
  const std::string name = text(n, "id");
  const std::string policy =
      n.attribute("sharing_policy") ? text(n, "sharing_policy") : std::string("SHARED");
  const Ends e = add_link(n, {name, rate(n, "bandwidth"), time(n, "latency")}, policy);
  if (!links_.emplace(name, e).second)
    fail(n, fmt::format("expected another name, \"{}\" is taken", name));
}

void Reader::route(Node n, std::uint32_t z, bool zones) {
  if (zones)
    expect_keys(n, {"src", "dst", "gw_src", "gw_dst", "symmetrical"});
  else
    expect_keys(n, {"src", "dst", "symmetrical"});
  const std::string from = text(n, "src"), to = text(n, "dst");
  Route there, back;
  if (zones) {
    there.gateway_from = back.gateway_to = text(n, "gw_src");
    there.gateway_to = back.gateway_from = text(n, "gw_dst");
    for (const std::string& g : {there.gateway_from, there.gateway_to})
      if (!out_.tree->zone_of.contains(g)) fail(n, fmt::format("no host or router \"{}\"", g));
  }
  for (const std::string& end : {from, to}) {
    const auto it = out_.tree->zone_of.find(end);
    std::vector<std::string> known;
    for (const auto& [name, at] : out_.tree->zone_of) known.push_back(name);
    const std::string nearest = nearest_spelling(end, known);
    if (it == out_.tree->zone_of.end() || it->second != z)
      fail(n, fmt::format("expected {} of this zone, got \"{}\"{}",
                          zones ? "a zone" : "a host or router", end,
                          nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
  }
  const Platform::Tree& tree = *out_.tree;
  const auto is_zone = [&](const std::string& end) {
    return std::any_of(tree.zones.begin(), tree.zones.end(),
                       [&](const Zone& other) { return other.name == end; });
  };
  for (const std::string& end : {from, to})
    if (!zones && is_zone(end))
      fail(n, fmt::format("expected a host or router, \"{}\" is a zone: zoneRoute", end));
  // A gateway elsewhere would lead back to this route.
  for (const auto& [gateway, end] :
       {std::pair(there.gateway_from, from), std::pair(there.gateway_to, to)})
    if (zones && (!tree.inside(tree.zone_of.at(gateway), z) || tree.part(gateway, z) != end))
      fail(n, fmt::format("expected a gateway in \"{}\", got \"{}\"", end, gateway));
  for (Node c : n.children()) {
    if (c.type() != pugi::node_element) continue;
    if (std::string(c.name()) != "link_ctn")
      fail(c, fmt::format("not understood in <{}>", n.name()));
    expect_keys(c, {"id", "direction"});
    const auto l = links_.find(text(c, "id"));
    if (l == links_.end()) {
      std::vector<std::string> known;
      for (const auto& [name, ends] : links_) known.push_back(name);
      const std::string nearest = nearest_spelling(text(c, "id"), known);
      fail(c, fmt::format("no link \"{}\"{}", text(c, "id"),
                          nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
    }
    const std::string direction = c.attribute("direction") ? text(c, "direction") : "NONE";
    const bool split = l->second.up != l->second.down;
    if (direction != "NONE" && direction != "UP" && direction != "DOWN")
      fail(c, fmt::format("direction: expected UP, DOWN or NONE, got \"{}\"", direction));
    if (split && direction == "NONE")
      fail(c, "expected the attribute \"direction\" (UP or DOWN): the link has two");
    const bool up = direction != "DOWN";
    there.links.push_back(up ? l->second.up : l->second.down);
    back.links.insert(back.links.begin(), up ? l->second.down : l->second.up);
  }
  Zone& in = out_.tree->zones[z];
  const auto add = [&](const std::string& a, const std::string& b, Route r) {
    if (a == b) return;
    if (!in.routes.emplace(std::pair(a, b), std::move(r)).second)
      fail(n, fmt::format("expected one route from \"{}\" to \"{}\", this is another (routes go "
                          "both ways unless symmetrical is NO)",
                          a, b));
    in.next[a].push_back(b);
  };
  add(from, to, std::move(there));
  if (yes(n, "symmetrical", true)) add(to, from, std::move(back));
}

// The hosts prefix + number + suffix, each with a link of its own, around a backbone or none.
void Reader::cluster(Node n, std::uint32_t parent) {
  expect_keys(n,
              {"id", "prefix", "suffix", "radical", "bw", "lat", "bb_bw", "bb_lat",
               "bb_sharing_policy", "sharing_policy", "router_id", "topology"},
              {"speed", "core"});
  no_children(n);
  if (n.attribute("topology") && text(n, "topology") != "FLAT")
    fail(n, fmt::format("topology: expected none or FLAT, got \"{}\"", text(n, "topology")));
  const auto z = static_cast<std::uint32_t>(out_.tree->zones.size());
  const std::string id = text(n, "id");
  out_.tree->zones.push_back({.name = id, .parent = parent, .star = true});
  if (parent != kNone) add_point(n, id, parent);
  const std::string policy =
      n.attribute("sharing_policy") ? text(n, "sharing_policy") : std::string("SPLITDUPLEX");
  const std::string prefix = n.attribute("prefix").value(), suffix = n.attribute("suffix").value();
  if (n.attribute("bb_bw")) {
    const std::string wide =
        n.attribute("bb_sharing_policy") ? text(n, "bb_sharing_policy") : std::string("SHARED");
    if (wide == "SPLITDUPLEX") fail(n, "bb_sharing_policy: expected SHARED or FATPIPE");
    out_.tree->zones[z].backbone =
        add_link(n, {id + "_backbone", rate(n, "bb_bw"), time(n, "bb_lat")}, wide).up;
  }
  std::istringstream list(text(n, "radical"));
  for (std::string item; std::getline(list, item, ',');) {
    int first = 0, last = 0;
    const char* const end = item.data() + item.size();
    auto r = std::from_chars(item.data(), end, first);
    last = first;
    if (r.ec == std::errc() && r.ptr != end && *r.ptr == '-')
      r = std::from_chars(r.ptr + 1, end, last);
    constexpr int kMost = 1'000'000;
    if (r.ec != std::errc() || r.ptr != end || first > last || first < 0 || last > kMost)
      fail(n, fmt::format("radical: expected numbers such as \"0-63,128\", got \"{}\"", item));
    for (int i = first; i <= last; ++i) {
      const std::string host = prefix + std::to_string(i) + suffix;
      add_point(n, host, z);
      out_.hosts.push_back(host);
      const Ends e =
          add_link(n, {id + "_link_" + std::to_string(i), rate(n, "bw"), time(n, "lat")}, policy);
      out_.tree->zones[z].ports[host] = {e.up, e.down};
    }
  }
  add_point(n, n.attribute("router_id") ? text(n, "router_id") : prefix + id + "_router" + suffix,
            z);
}

void Reader::zone(Node n, std::uint32_t parent) {
  expect_keys(n, {"id", "routing"});
  const auto z = static_cast<std::uint32_t>(out_.tree->zones.size());
  const std::string id = text(n, "id"), routing = text(n, "routing");
  const char* const known[] = {"Full", "Floyd", "Dijkstra", "DijkstraCache", "None"};
  if (std::find(std::begin(known), std::end(known), routing) == std::end(known))
    fail(n, fmt::format("routing: expected {}, got \"{}\"", fmt::join(known, ", "), routing));
  out_.tree->zones.push_back({.name = id, .routing = routing, .parent = parent});
  if (parent != kNone) add_point(n, id, parent);
  for (Node c : n.children()) {
    if (c.type() != pugi::node_element) continue;
    const std::string tag = c.name();
    if (tag == "host" || tag == "router") {
      if (tag == "host")
        expect_keys(c, {"id"}, {"speed", "core", "coordinates", "pstate"});
      else
        expect_keys(c, {"id"}, {"coordinates"});
      no_children(c);
      add_point(c, text(c, "id"), z);
      if (tag == "host") out_.hosts.push_back(text(c, "id"));
    } else if (tag == "link") {
      link(c);
    } else if (tag == "zone" || tag == "AS") {
      zone(c, z);
    } else if (tag == "cluster") {
      cluster(c, z);
    } else if (tag == "route") {
      route(c, z, false);
    } else if (tag == "zoneRoute" || tag == "ASroute") {
      route(c, z, true);
    } else if (tag != "prop") {
      fail(c, fmt::format("not understood in <{}>; expected host, router, link, zone, cluster, "
                          "route or zoneRoute",
                          n.name()));
    }
  }
}

Reader::Result Reader::read() {
  pugi::xml_document document;
  const pugi::xml_parse_result parsed =
      document.load_buffer(text_.data(), text_.size(), pugi::parse_default | pugi::parse_doctype);
  if (!parsed) fail(parsed.offset, fmt::format("expected XML: {}", parsed.description()));
  const Node root = document.child("platform");
  if (!root) fail(0, "expected a <platform>");
  expect_keys(root, {"version"});
  if (root.attribute("version").as_double() < 4)
    fail(root, "version: expected 4 or later (simgrid_update_xml brings older files up to date)");
  out_.tree->file = path_;
  int zones = 0;
  for (Node c : root.children()) {
    if (c.type() != pugi::node_element) continue;
    const std::string tag = c.name();
    if (tag == "zone" || tag == "AS")
      zone(c, kNone);
    else if (tag == "cluster")
      cluster(c, kNone);
    else
      fail(c, "not understood in <platform>; expected one zone");
    if (++zones > 1) fail(c, "expected one zone, which may hold others");
  }
  if (out_.hosts.empty()) fail(root, "expected some hosts");
  return std::move(out_);
}

}  // namespace

std::vector<std::uint32_t> Platform::way(std::uint32_t from, std::uint32_t to) const {
  std::vector<std::uint32_t> way, once;
  tree_->between(hosts_[from], hosts_[to], way);
  for (std::uint32_t l : way)
    if (!links_[l].wide && std::find(once.begin(), once.end(), l) == once.end()) once.push_back(l);
  const auto slower = [&](std::uint32_t a, std::uint32_t b) {
    return links_[a].rate < links_[b].rate;
  };
  const auto narrowest = std::min_element(once.begin(), once.end(), slower);
  for (std::uint32_t l : way)
    if (links_[l].wide && (once.empty() || links_[l].rate < links_[*narrowest].rate))
      throw InputError(fmt::format(
          "{}: \"{}\" to \"{}\": expected a link narrower than \"{}\" on the way; a FATPIPE link "
          "that limits single flows is not modelled",
          tree_->file, hosts_[from], hosts_[to], links_[l].name));
  if (once.empty())
    throw InputError(fmt::format("{}: \"{}\" to \"{}\": expected some link on the way", tree_->file,
                                 hosts_[from], hosts_[to]));
  return once;
}

Platform read_platform(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::error_code none;
  if (!in || std::filesystem::is_directory(path, none))
    throw InputError(path + ": can't read the platform file");
  std::string text{std::istreambuf_iterator<char>(in), {}};
  Reader::Result r = Reader(path, std::move(text)).read();
  Platform p;
  p.hosts_ = std::move(r.hosts);
  p.links_ = std::move(r.links);
  p.tree_ = std::move(r.tree);
  return p;
}

}  // namespace reckon::hw
