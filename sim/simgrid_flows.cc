#include "sim/simgrid_flows.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <simgrid/s4u.hpp>
#include <string>

#include "sim/check.h"

namespace reckon::sim {

namespace {

namespace sg = simgrid::s4u;

std::vector<double> run_here(const HostFlows& batch) {
  // CM02: max-min sharing. Its factors are set one by one, because their defaults have changed
  // between versions.
  std::vector<std::string> words = {"reckon",
                                    "--cfg=network/model:CM02",
                                    "--cfg=network/bandwidth-factor:1",
                                    "--cfg=network/latency-factor:1",
                                    "--cfg=network/weight-S:0",
                                    "--cfg=network/TCP-gamma:0",
                                    "--cfg=network/crosstraffic:0",
                                    "--cfg=surf/precision:1e-12",
                                    "--cfg=contexts/stack-size:64",
                                    "--log=root.threshold:error"};
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  int argc = static_cast<int>(argv.size());
  sg::Engine engine(&argc, argv.data());

  sg::NetZone* zone = sg::create_full_zone("cluster");
  std::vector<sg::Host*> hosts;
  for (std::uint32_t h = 0; h < batch.hosts; ++h)
    hosts.push_back(zone->create_host("h" + std::to_string(h), 1e9)->seal());
  std::vector<sg::Link*> links;
  for (std::size_t l = 0; l < batch.link_rates.size(); ++l)
    links.push_back(zone->create_link("l" + std::to_string(l), batch.link_rates[l].si)
                        ->set_sharing_policy(sg::Link::SharingPolicy::SHARED)
                        ->seal());
  for (const HostFlows::Route& r : batch.routes) {
    std::vector<sg::LinkInRoute> way;
    for (LinkId l : r.links) way.emplace_back(links[l]);
    zone->add_route(hosts[r.from]->get_netpoint(), hosts[r.to]->get_netpoint(), nullptr, nullptr,
                    way, false);
  }
  zone->seal();

  std::vector<double> ends(batch.flows.size(), -1);
  std::vector<std::vector<std::size_t>> of_host(batch.hosts);
  for (std::size_t f = 0; f < batch.flows.size(); ++f)
    of_host[batch.routes[batch.flows[f].route].from].push_back(f);
  for (std::uint32_t h = 0; h < batch.hosts; ++h) {
    if (of_host[h].empty()) continue;
    std::stable_sort(of_host[h].begin(), of_host[h].end(), [&](std::size_t a, std::size_t b) {
      return batch.flows[a].start < batch.flows[b].start;
    });
    sg::Actor::create("a" + std::to_string(h), hosts[h], [&, h] {
      std::vector<sg::CommPtr> comms;
      for (std::size_t f : of_host[h]) {
        const FlowOf& flow = batch.flows[f];
        sg::this_actor::sleep_until(seconds(flow.start).si);
        comms.push_back(
            sg::Comm::sendto_async(hosts[h], hosts[batch.routes[flow.route].to],
                                   static_cast<std::uint64_t>(std::llround(flow.bytes.si))));
      }
      sg::Comm::wait_all(comms);
      for (std::size_t i = 0; i < comms.size(); ++i)
        ends[of_host[h][i]] = comms[i]->get_finish_time();
    });
  }
  engine.run();
  return ends;
}

}  // namespace

SimGridRun simgrid_flow_ends(const HostFlows& batch) {
  int pipe_ends[2];
  check(pipe(pipe_ends) == 0, "a pipe opens");
  std::fflush(nullptr);
  const pid_t child = fork();
  check(child >= 0, "a process starts");
  if (child == 0) {
    close(pipe_ends[0]);
    std::FILE* out = fdopen(pipe_ends[1], "wb");
    const std::vector<double> ends = run_here(batch);
    const bool written =
        out != nullptr && std::fwrite(ends.data(), sizeof(double), ends.size(), out) == ends.size();
    std::_Exit(written && std::fclose(out) == 0 ? 0 : 1);  // SimGrid's exit handlers are not ours
  }
  close(pipe_ends[1]);
  std::vector<double> ends(batch.flows.size());
  std::FILE* in = fdopen(pipe_ends[0], "rb");
  check(in != nullptr, "the pipe is readable");
  const std::size_t got = std::fread(ends.data(), sizeof(double), ends.size(), in);
  std::fclose(in);
  int status = 0;
  rusage use{};
  check(wait4(child, &status, 0, &use) == child, "the process is ours");
  SimGridRun run;
  run.cpu_seconds = static_cast<double>(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                    1e-6 * static_cast<double>(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
  if (got != ends.size() || status != 0) return run;
  for (double end : ends) run.ends.push_back(ticks(Seconds(end)));
  return run;
}

}  // namespace reckon::sim
