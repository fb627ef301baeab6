#include "hw-models/network_fit.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "hw-models/embedded.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::hw {

namespace {

using nlohmann::json;

constexpr const char* kNetworkFits = "network.json";

InsideFit inside_row(const json& j) {
  return {.architecture = j.at("architecture"),
          .calibrated = j.at("calibrated"),
          .base_seconds = j.at("base_seconds"),
          .hop = j.at("hop"),
          .ring_fraction = j.at("ring_fraction"),
          .own_copy = j.at("own_copy"),
          .ramp_seconds = j.at("ramp_seconds"),
          .all_to_all_fraction = j.at("all_to_all_fraction"),
          .nvls_fraction = j.at("nvls_fraction"),
          .nvls_ramp_seconds = j.at("nvls_ramp_seconds")};
}

PcieFit pcie_row(const json& j) {
  return {.ring_fraction = j.at("ring_fraction"),
          .all_to_all_fraction = j.at("all_to_all_fraction"),
          .ring_crossing = j.at("ring_crossing"),
          .all_to_all_crossing = j.at("all_to_all_crossing")};
}

BetweenFit between_row(const json& j) {
  return {.ring_fraction = j.at("ring_fraction"),
          .all_to_all_fraction = j.at("all_to_all_fraction"),
          .ring_hop_small = j.at("ring_hop_small"),
          .ring_hop_large = j.at("ring_hop_large"),
          .tree_hop_small = j.at("tree_hop_small"),
          .tree_hop_large = j.at("tree_hop_large"),
          .ramp_bytes = j.at("ramp_bytes"),
          .message = j.at("message")};
}

ExchangeFit exchange_row(const json& j) {
  return {.base_seconds = j.at("base_seconds"),
          .nvlink_fraction = j.at("nvlink_fraction"),
          .hopper_per_sm = j.at("hopper_per_sm"),
          .blackwell_per_sm = j.at("blackwell_per_sm"),
          .nic_fraction = j.at("nic_fraction"),
          .token_seconds = j.at("token_seconds")};
}

}  // namespace

NetworkFit parse_network_fit(std::string_view text) {
  try {
    const json root = json::parse(text);
    NetworkFit fit{.pcie = pcie_row(root.at("pcie")),
                   .between = between_row(root.at("between")),
                   .exchange = exchange_row(root.at("exchange"))};
    for (const json& row : root.at("inside")) fit.inside.push_back(inside_row(row));
    return fit;
  } catch (const json::exception& e) {
    throw InputError(fmt::format("{}: {}", kNetworkFits, e.what()));
  }
}

const NetworkFit& network_fit() {
  static const NetworkFit fit = [] {
    for (const EmbeddedFile& f : embedded_files())
      if (f.name == kNetworkFits) return parse_network_fit(f.text);
    check(false, "network.json is in the catalogue");
    return NetworkFit{};
  }();
  return fit;
}

const InsideFit& inside_fit(const NetworkFit& all, std::string_view architecture) {
  for (const InsideFit& row : all.inside)
    if (row.architecture == architecture) return row;
  for (const InsideFit& row : all.inside)
    if (row.architecture == "any") return row;
  check(false, "network.json has a row for any architecture");
  return all.inside.front();
}

}  // namespace reckon::hw
