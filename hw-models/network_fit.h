// Constants of the network model, fitted to measured tables by `reckon-fit` and read from
// catalog/network.json, where each row carries its source and its error on rows left out of the
// fit. The equations stand in network_model.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace reckon::hw {

// NCCL among the GPUs of one node, by GPU architecture. Fractions are of the nameplate NVLink rate.
struct InsideFit {
  std::string architecture;
  bool calibrated = false;
  double base_seconds = 0;   // launch and first synchronisation
  double hop = 0;            // one ring step, in NVLink latencies
  double ring_fraction = 0;  // what a ring reaches
  double own_copy = 0;       // copying the own part, relative to passing as much over the link
  double ramp_seconds = 0;   // of the pipeline: adds sqrt(ramp_seconds * busy)
  double all_to_all_fraction = 0;  // what pairwise messages reach
  double nvls_fraction = 0;        // buffer per second of an all-reduce in the switch; 0: none
  double nvls_ramp_seconds = 0;
};

// NCCL without NVLink; fractions of the nameplate PCIe rate.
struct PcieFit {
  double ring_fraction = 0, all_to_all_fraction = 0;  // up to kSocket GPUs
  double ring_crossing = 1, all_to_all_crossing = 1;  // factors of groups larger than that
  static constexpr int kSocket = 4;                   // GPUs below one CPU socket
};

// NCCL between nodes. Fractions are of the nameplate NIC rate; hops in fabric latencies, for
// messages far below and far above ramp_bytes.
struct BetweenFit {
  double ring_fraction = 0;        // of trees and point-to-point messages too
  double all_to_all_fraction = 0;  // pairwise messages
  double ring_hop_small = 0, ring_hop_large = 0;
  double tree_hop_small = 0, tree_hop_large = 0;  // per doubling of the nodes, up and down
  double ramp_bytes = 0;
  double message = 0;  // each message of an all-to-all to another node
};

// Token exchange kernels that forward inside nodes (DeepEP and its kin).
struct ExchangeFit {
  double base_seconds = 0;
  double nvlink_fraction = 0;
  double hopper_per_sm = 0, blackwell_per_sm = 0;  // bytes per second that one SM moves over NVLink
  double nic_fraction = 0;
  double token_seconds = 0;  // per token and remote node, when compute kernels run beside it
};

struct NetworkFit {
  std::vector<InsideFit> inside;
  PcieFit pcie;
  BetweenFit between;
  ExchangeFit exchange;
};

// Throws InputError if the text is not of the form of catalog/network.json.
NetworkFit parse_network_fit(std::string_view json);

// The constants compiled into the program.
const NetworkFit& network_fit();

// The row of the architecture, else the row "any", which is not calibrated.
const InsideFit& inside_fit(const NetworkFit& all, std::string_view architecture);

}  // namespace reckon::hw
