#include "hw-models/catalog.h"

#include <catch2/catch.hpp>

#include "hw-models/embedded.h"

using namespace reckon;

TEST_CASE("every catalogue entry reads") {
  CHECK(hw::Catalogue<hw::Gpu>::entries().size() >= 13);
  CHECK(hw::Catalogue<hw::Cluster>::entries().size() >= 18);
  CHECK(hw::stack("megatron-bridge-2025").dispatcher == hw::Dispatcher::DeepEp);
  CHECK_FALSE(hw::stack("megatron-2022").can_overlap_tp);
  CHECK(hw::stack("deepseek").optimizer_bytes == 8. * byte);
  const hw::Cluster& c = hw::cluster("h800-2048");
  CHECK(c.gpus == 2048);
  CHECK(c.gpu.name == "H800");
  CHECK(c.node.nvlink == 200 * GB / s);
  CHECK(c.fabric.nic == 400 * Gbit / s);
  CHECK_THROWS_WITH(hw::gpu("H10"), Catch::Contains("did you mean \"H100\""));
}

// STYLE: each figure cites where it is from.
TEST_CASE("every figure of the catalogue has its source") {
  for (const hw::EmbeddedFile& f : hw::embedded_files()) {
    if (f.name == "kernels.json" || f.name == "network.json")
      continue;  // written by reckon-fit, which says its sources
    const auto root = nlohmann::json::parse(f.text);
    for (const auto& [name, entry] : root.items())
      for (const auto& [key, value] : entry.items()) {
        const bool says_itself = key == "sources" || key == "base" || key == "architecture" ||
                                 key == "gpu" || key == "node" || key == "fabric" ||
                                 key == "currency";
        INFO(f.name << " " << name << " " << key);
        if (!says_itself) CHECK(entry.at("sources").contains(key));
      }
  }
}

TEST_CASE("a cluster written is read back equal") {
  const hw::Cluster& c = hw::cluster("gb300-nvl72");
  const auto text = hw::to_json(c).dump(2);
  const hw::Document d = hw::parse_json("out.json", text);
  hw::Cluster back;
  hw::read_value(hw::Value(d), back, {});
  CHECK(hw::to_json(back).dump(2) == text);
  CHECK(back.gpu.peak_fp4 == c.gpu.peak_fp4);
}
