// A cluster from a GPU's name and prose about its network. The GPU decides the node; the prose, as
// far as it states a rate, decides the fabric.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <regex>

#include "hw-models/catalog.h"
#include "planner/run_case.h"
#include "planner/words.h"

namespace reckon::plan {

namespace {

// The catalogue's cluster for a GPU when nothing else is known.
const char* usual_cluster(const std::string& gpu, double memory_gb, const std::string& network) {
  if (says(gpu, "gb300")) return "gb300-nvl72";
  if (says(gpu, "gb200")) return "gb200-nvl72";
  if (says(gpu, "b300")) return "dgx-b300";
  if (says(gpu, "b200")) return "dgx-b200";
  if (says(gpu, "h800")) return "dgx-h800";
  if (says(gpu, "h200")) return "dgx-h200";
  if (says(gpu, "h100")) {
    if (memory_gb > 90 || says(network, "hbm2e")) return "grand-teton-h100-96gb";
    return says(network, "grand teton") ? "grand-teton-h100" : "dgx-h100";
  }
  if (says(gpu, "a100")) {
    if (says(gpu, "pcie") || says(network, "pcie")) return "a100-pcie";
    return memory_gb > 0 && memory_gb < 60 ? "dgx-a100-40gb" : "dgx-a100";
  }
  return nullptr;
}

// Bytes per second of one GPU's share of the network, as far as the prose states it; 0: it does
// not. Understood: "8x400 Gb/s", "4x100 Gb/s ... per node", "1600 Gbps", "800 Gb/s per node", "400
// Gb/s per GPU", "8x50 GB/s", "8x HDR200", "8x NDR400".
double printed_rate(const std::string& network, int gpus_per_node) {
  static const std::regex sentence(
      R"((?:(\d{1,6})\s*x\s*)?(?:(?:hdr|ndr|xdr)\s*)?(\d{1,6})\s*(gb/s|gbps|gbit/s|gb per second)?)",
      std::regex::icase);
  for (std::sregex_iterator it(network.begin(), network.end(), sentence), end; it != end; ++it) {
    const std::smatch& m = *it;
    const std::string before = m.prefix().str(), unit = m[3].str();
    const bool named =
        std::regex_search(m[0].str(), std::regex("(hdr|ndr|xdr)", std::regex::icase));
    if (unit.empty() && !named) continue;
    // A rate of NVLink, or of the memory, is not the network's.
    const std::string lead =
        lower_case(before.size() > 24 ? before.substr(before.size() - 24) : before);
    const std::string tail = lower_case(network.substr(
        static_cast<std::size_t>(m.position(0)) + static_cast<std::size_t>(m.length(0)), 24));
    if (says(lead, "nvlink") && !m[1].matched && !named) continue;
    if (says(tail, "/dir") || says(tail, "per direction")) continue;
    const double amount = std::stod(m[2].str());
    const bool bytes = unit.size() > 1 && unit[0] == 'G' && unit[1] == 'B';
    const double each = amount * (bytes ? 1e9 : 1e9 / 8);
    if (says(tail, "per gpu")) return each;
    if (m[1].matched) return each * std::stod(m[1].str()) / gpus_per_node;
    // One figure for a node, or one that only a node of several cards can have.
    if (says(tail, "node") || says(tail, "inter-node") || amount >= 800)
      return each / gpus_per_node;
    return each;
  }
  return 0;
}

}  // namespace

std::variant<hw::Cluster, NoCase> cluster_of(const PublishedRun& run) {
  const std::string gpu = lower_case(run.gpu), network = lower_case(run.network);
  const char* name = usual_cluster(gpu, run.memory_gb.value_or(0), network);
  if (!name) return NoCase{"no catalogue entry for the GPU \"" + run.gpu + "\""};
  hw::Cluster cluster = hw::cluster(name);
  cluster.gpus = run.gpus.value_or(0);
  // A job on several NVL72 racks takes 64 GPUs of each when its size is a multiple of that.
  if (cluster.node.gpus == 72 && cluster.gpus > 64 && cluster.gpus % 64 == 0)
    cluster.node.gpus = 64;
  if (cluster.gpus <= cluster.node.gpus || cluster.node.gpus > 8) return cluster;
  const double rate = printed_rate(run.network, cluster.node.gpus);
  if (rate > 0 && std::abs(rate / cluster.fabric.nic.si - 1) > 0.02) {
    cluster.fabric.nic = BytesPerSecond(rate);
    cluster.name += ", network as printed";
  }
  if (says(network, "roce")) cluster.fabric.latency = hw::fabric("roce-400").latency;
  return cluster;
}

}  // namespace reckon::plan
