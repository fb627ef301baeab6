#include "hw-models/platform.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "hw-models/catalog.h"
#include "hw-models/topology.h"
#include "hw-models/topology_svg.h"
#include "hw-models/traffic.h"
#include "reference/platform_routes.h"
#include "sim/input_error.h"
#include "tests/real/temporary_folder.h"

using namespace reckon;
using namespace reckon::hw;
using reckon::real::TemporaryFolder;

namespace {

// Two clusters behind a backbone each, a zone of single hosts, and routes between them.
const char* const kNested = R"(<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <zone id="world" routing="Full">
    <cluster id="a" prefix="a-" suffix="" radical="0-3" speed="1Gf" bw="10GBps" lat="1us"
             bb_bw="20GBps" bb_lat="2us"/>
    <cluster id="b" prefix="b-" suffix=".b" radical="0-1,7" speed="1Gf" bw="50Gbps" lat="3us"
             sharing_policy="SHARED"/>
    <zone id="c" routing="Floyd">
      <host id="c0" speed="1Gf"/>
      <host id="c1" speed="1Gf"/>
      <router id="middle"/>
      <link id="l0" bandwidth="1GBps" latency="10us"/>
      <link id="l1" bandwidth="2GBps" latency="20us" sharing_policy="SPLITDUPLEX"/>
      <route src="c0" dst="middle"><link_ctn id="l0"/></route>
      <route src="middle" dst="c1"><link_ctn id="l1" direction="UP"/></route>
    </zone>
    <link id="ab" bandwidth="5GBps" latency="100us"/>
    <link id="ac" bandwidth="4GBps" latency="200us" sharing_policy="SPLITDUPLEX"/>
    <link id="bc" bandwidth="3GBps" latency="300us"/>
    <zoneRoute src="a" dst="b" gw_src="a-a_router" gw_dst="b-b_router.b">
      <link_ctn id="ab"/>
    </zoneRoute>
    <zoneRoute src="a" dst="c" gw_src="a-a_router" gw_dst="middle">
      <link_ctn id="ac" direction="DOWN"/>
    </zoneRoute>
    <zoneRoute src="b" dst="c" gw_src="b-b_router.b" gw_dst="middle">
      <link_ctn id="bc"/>
    </zoneRoute>
  </zone>
</platform>
)";

const char* const kFull = R"(<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <zone id="z" routing="Full">
    <host id="h0" speed="1Gf"/>
    <host id="h1" speed="1Gf"/>
    <host id="h2" speed="1Gf"/>
    <link id="x" bandwidth="50GBps" latency="1us"/>
    <link id="y" bandwidth="25GBps" latency="2us"/>
    <link id="wide" bandwidth="100GBps" latency="0us" sharing_policy="FATPIPE"/>
    <route src="h0" dst="h1"><link_ctn id="x"/><link_ctn id="wide"/><link_ctn id="y"/></route>
    <route src="h0" dst="h2" symmetrical="NO"><link_ctn id="x"/></route>
    <route src="h2" dst="h0" symmetrical="NO"><link_ctn id="y"/></route>
    <route src="h1" dst="h2"><link_ctn id="y"/></route>
  </zone>
</platform>
)";

struct File {
  TemporaryFolder folder;
  std::string path;
  explicit File(const std::string& text) : path(folder.path + "/platform.xml") {
    std::ofstream(path) << text;
  }
};

std::vector<std::string> way(const Platform& p, std::uint32_t from, std::uint32_t to) {
  std::vector<std::string> out;
  for (std::uint32_t l : p.way(from, to)) out.push_back(p.links()[l].name);
  return out;
}

// The text with one part replaced.
std::string changed(const char* text, const std::string& from, const std::string& to) {
  std::string out = text;
  const auto at = out.find(from);
  REQUIRE(at != std::string::npos);
  return out.replace(at, from.size(), to);
}

void refused(const std::string& text, const std::string& line, const std::string& word) {
  const File f(text);
  CAPTURE(word);
  CHECK_THROWS_WITH(read_platform(f.path),
                    Catch::Contains("platform.xml:" + line) && Catch::Contains(word));
}

}  // namespace

TEST_CASE("ways over nested zones and clusters") {
  const File f(kNested);
  const Platform p = read_platform(f.path);
  CHECK(p.hosts() == std::vector<std::string>{"a-0", "a-1", "a-2", "a-3", "b-0.b", "b-1.b", "b-7.b",
                                              "c0", "c1"});
  using Names = std::vector<std::string>;
  CHECK(way(p, 0, 1) == Names{"a_link_0_UP", "a_backbone", "a_link_1_DOWN"});
  CHECK(way(p, 4, 6) == Names{"b_link_0", "b_link_7"});
  CHECK(way(p, 7, 8) == Names{"l0", "l1_UP"});
  CHECK(way(p, 8, 7) == Names{"l1_DOWN", "l0"});
  CHECK(way(p, 2, 5) == Names{"a_link_2_UP", "a_backbone", "ab", "b_link_1"});
  CHECK(way(p, 2, 8) == Names{"a_link_2_UP", "a_backbone", "ac_DOWN", "l1_UP"});
  CHECK(way(p, 8, 2) == Names{"l1_DOWN", "ac_UP", "a_backbone", "a_link_2_DOWN"});
  CHECK(p.links()[p.way(4, 6)[0]].rate.si == 6.25e9);
}

TEST_CASE("ways of a full zone, one-way routes, and links that nobody has to share") {
  const File f(kFull);
  const Platform p = read_platform(f.path);
  using Names = std::vector<std::string>;
  CHECK(way(p, 0, 1) == Names{"x", "y"});
  CHECK(way(p, 1, 0) == Names{"y", "x"});
  CHECK(way(p, 0, 2) == Names{"x"});
  CHECK(way(p, 2, 0) == Names{"y"});
  const File narrow(changed(kFull, "bandwidth=\"100GBps\"", "bandwidth=\"10GBps\""));
  const Platform q = read_platform(narrow.path);
  CHECK_THROWS_WITH(q.way(0, 1), Catch::Contains("FATPIPE"));
  const File missing(
      changed(kFull, "<route src=\"h1\" dst=\"h2\"><link_ctn id=\"y\"/></route>", ""));
  CHECK_THROWS_WITH(read_platform(missing.path).way(1, 2),
                    Catch::Contains("route from \"h1\" to \"h2\""));
}

TEST_CASE("SimGrid reads the same ways from the same files") {
  for (const char* text : {kNested, kFull}) {
    const File f(text);
    const auto truth = reference::platform_routes(f.path);
    const Platform p = read_platform(f.path);
#ifdef RECKON_SIMGRID
    REQUIRE(truth.size() == p.hosts().size() * (p.hosts().size() - 1));
#else
    WARN("SimGrid is not installed: nothing to compare with");
    return;
#endif
    for (std::uint32_t from = 0; from < p.hosts().size(); ++from)
      for (std::uint32_t to = 0; to < p.hosts().size(); ++to) {
        if (from == to) continue;
        auto expected = truth.at({p.hosts()[from], p.hosts()[to]});
        std::erase(expected, "wide");
        CAPTURE(p.hosts()[from], p.hosts()[to]);
        CHECK(way(p, from, to) == expected);
      }
  }
}

TEST_CASE("what is not understood is refused by name, with its line") {
  refused(changed(kFull, "<host id=\"h1\" speed=\"1Gf\"/>", "<peer id=\"h1\"/>"), "6", "peer");
  refused(changed(kFull, "id=\"h2\" speed", "id=\"h2\" sped"), "7", "sped");
  refused(changed(kFull, "routing=\"Full\"", "routing=\"Vivaldi\""), "4", "Vivaldi");
  refused(changed(kFull, "25GBps", "25GB"), "9", "25GB");
  refused(changed(kFull, "<link_ctn id=\"x\"/><link_ctn id=\"wide\"",
                  "<link_ctn id=\"xx\"/><link_ctn id=\"wide\""),
          "11", "xx");
  refused(changed(kFull, "dst=\"h2\"><link", "dst=\"h3\"><link"), "14", "h3");
  refused(changed(kFull, "version=\"4.1\"", "version=\"3\""), "3", "version");
  refused(changed(kFull, "</zone>", ""), "", "");
  refused(changed(kNested, "bb_lat=\"2us\"", "bb_lat=\"2us\" topology=\"TORUS\""), "5", "TORUS");
  refused(changed(kNested, "<link_ctn id=\"ac\" direction=\"DOWN\"/>", "<link_ctn id=\"ac\"/>"),
          "25", "direction");
  refused(changed(kNested, "gw_dst=\"middle\"", "gw_dst=\"muddle\""), "24", "muddle");
  refused(changed(kNested, "gw_src=\"a-a_router\" gw_dst=\"middle\"",
                  "gw_src=\"middle\" gw_dst=\"a-a_router\""),
          "24", "gateway in \"a\"");
  refused(changed(kNested, "<link id=\"ab\"", "<route src=\"a\" dst=\"c\"/><link id=\"ab\""), "18",
          "zoneRoute");
  refused(changed(kFull, "dst=\"h2\" symmetrical=\"NO\"", "dst=\"h2\""), "13", "another");
  const File bare(changed(kFull, "<route src=\"h1\" dst=\"h2\"><link_ctn id=\"y\"/></route>",
                          "<route src=\"h1\" dst=\"h2\"/>"));
  CHECK_THROWS_WITH(read_platform(bare.path).way(1, 2), Catch::Contains("some link"));
  CHECK_THROWS_AS(read_platform("/nowhere.xml"), InputError);
  CHECK_THROWS_AS(read_platform("/"), InputError);
}

TEST_CASE("a platform as a cluster's network, a host a GPU or a host a node") {
  std::string text =
      "<platform version=\"4.1\"><cluster id=\"c\" prefix=\"h\" suffix=\"\" "
      "radical=\"0-15\" speed=\"1Gf\" bw=\"50GBps\" lat=\"1us\" bb_bw=\"200GBps\" "
      "bb_lat=\"1us\"/></platform>";
  const File each(text);
  Cluster c = cluster("dgx-h100");
  c.gpus = 16;
  c.fabric.topology = TopologyShape{.kind = TopologyShape::Kind::Platform};
  c.fabric.topology->platform = each.path;
  const Topology t(c);
  CHECK(t.hops(0, 8) == 2);
  CHECK(t.route(0, 7).size() == 2);  // over NVLink
  // Each GPU sends 8 others of the other node 1 MB over its own link: 0.16 ms; 128 MB pass the
  // backbone: 0.64 ms.
  const TrafficResult r = run({.group = 16, .message = 1 * MB}, t, c);
  CHECK(r.endpoints.si == Approx(8e6 / 50e9));
  CHECK(r.end.si == Approx(128e6 / 200e9).epsilon(0.02));
  CHECK(std::string(t.layer(t.route(0, 8)[0])) == "c_link__UP");
  CHECK(t.latency(t.route(0, 8)).si == Approx(3e-6));
  CHECK(bisection(t).si == Approx(200e9));  // the backbone
  CHECK(svg(t, "platform").find("<rect") != std::string::npos);
  CHECK_THROWS_WITH(Topology(c, {{"gpu0", "leaf0"}}), Catch::Contains("platform file"));
  const File nodes(text.replace(text.find("0-15"), 4, "0-1"));
  c.fabric.topology->platform = nodes.path;
  CHECK(bisection(Topology(c)).si == Approx(50e9));  // 8 GPUs share a host's link
  c.gpus = 24;
  CHECK_THROWS_WITH(Topology(c), Catch::Contains("24 hosts") && Catch::Contains("3 (one a node)"));
}
