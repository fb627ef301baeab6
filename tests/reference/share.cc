#include "reference/share.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace reckon::reference {

// Bertsekas and Gallager, Data Networks, section 6.5.2: raise all rates together until a link is
// full; fix the flows on it; go on with the rest.
std::vector<double> max_min_rates(const std::vector<double>& link_rates,
                                  const std::vector<std::vector<sim::LinkId>>& flows) {
  std::vector<double> rate(flows.size(), 0);
  std::vector<bool> fixed(flows.size(), false);
  for (;;) {
    double share = std::numeric_limits<double>::infinity();
    sim::LinkId tightest = 0;
    for (sim::LinkId l = 0; l < link_rates.size(); ++l) {
      double left = link_rates[l];
      int open = 0;
      for (std::size_t f = 0; f < flows.size(); ++f)
        if (std::count(flows[f].begin(), flows[f].end(), l) > 0) {
          if (fixed[f])
            left -= rate[f];
          else
            ++open;
        }
      if (open > 0 && left / open < share) share = left / open, tightest = l;
    }
    if (std::isinf(share)) return rate;
    for (std::size_t f = 0; f < flows.size(); ++f)
      if (!fixed[f] && std::count(flows[f].begin(), flows[f].end(), tightest) > 0)
        rate[f] = share, fixed[f] = true;
  }
}

std::vector<std::optional<double>> flow_ends(const std::vector<double>& link_rates,
                                             const std::vector<std::vector<sim::LinkId>>& routes,
                                             const std::vector<sim::FlowOf>& flows) {
  std::vector<std::optional<double>> ends(flows.size());
  std::vector<double> left, start;
  for (const sim::FlowOf& f : flows) {
    left.push_back(f.bytes.si);
    start.push_back(sim::seconds(f.start).si);
  }
  for (double now = 0;;) {
    std::vector<std::size_t> active;
    std::vector<std::vector<sim::LinkId>> ways;
    double step = std::numeric_limits<double>::infinity();
    for (std::size_t f = 0; f < flows.size(); ++f) {
      if (ends[f]) continue;
      if (start[f] > now) {
        step = std::min(step, start[f] - now);
        continue;
      }
      active.push_back(f);
      ways.push_back(routes[flows[f].route]);
    }
    const auto rates = max_min_rates(link_rates, ways);
    for (std::size_t i = 0; i < active.size(); ++i)
      if (rates[i] > 0) step = std::min(step, left[active[i]] / rates[i]);
    if (std::isinf(step)) return ends;
    for (std::size_t i = 0; i < active.size(); ++i) {
      const std::size_t f = active[i];
      left[f] -= rates[i] * step;
      if (left[f] <= 1e-12 * flows[f].bytes.si) ends[f] = now + step;
    }
    // Land on a start exactly, so that it is not missed by rounding.
    double next = now + step;
    for (double s : start)
      if (std::abs(s - next) < 1e-12) next = s;
    now = next;
  }
}

}  // namespace reckon::reference
