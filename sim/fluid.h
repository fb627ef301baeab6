// Max-min fair sharing of many flows over links, event by event: the network model for traffic
// whose flows are known one by one.
//
// Between two events every active flow moves at its max-min fair rate: it crosses a link that is
// full and on which no flow is faster (Bertsekas and Gallager, Data Networks, section 6.5.2). When
// a flow starts or ends, or a link changes its rate, only the links whose level can change are
// looked at again.
//
// Not modelled: packets, queues, congestion control and its transients, retransmission; latency is
// the caller's (let the flow start later). A flow takes one route; split it to use several.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "sim/sim_time.h"
#include "sim/units.h"

namespace reckon::sim {

using LinkId = std::uint32_t;
using RouteId = std::uint32_t;
using FlowId = std::uint32_t;

// The state of a network at one point of the calendar. Flows of one route share one record, so the
// cost of an event grows with the routes that it affects, not with the flows. Two runs with the
// same calls give the same ticks.
class Fluid {
 public:
  static constexpr std::size_t kMaxLinks = 10;  // of a route

  // Rates are fair to `tolerance` of themselves: a link passes on a change of its level when it has
  // added up to more than that. Every event changes the rates of thousands of flows by less than a
  // thousandth, so a coarser tolerance saves most of the work. SimGrid's is 1e-5.
  static constexpr double kExact = 1e-12;
  explicit Fluid(const std::vector<BytesPerSecond>& link_rates, double tolerance = kExact);

  // A way through the network, to be used by any number of flows.
  // REQUIRES: 1 to kMaxLinks links, none twice.
  RouteId add_route(std::span<const LinkId> links);

  // A flow that starts now. Ids count from 0. REQUIRES: fewer than 2^24 at once on a route.
  FlowId start(RouteId route, Bytes bytes);

  // A link that is from now on faster, slower, or dead (0).
  void set_rate(LinkId link, BytesPerSecond rate);

  SimTime now() const { return now_; }

  // When the next flow ends; nothing: no flow is active, or all of them wait for dead links.
  std::optional<SimTime> next_end();

  // Moves the clock and returns the flows that end at that tick, in ascending order.
  // REQUIRES: now() <= to <= next_end().
  std::vector<FlowId> advance(SimTime to);

  // As advance(), but beyond next_end() too: rates stay as they are until `to`. What a flow that
  // ends before leaves unused till then goes, at `to`, to the flows that its links limit. Many ends
  // are one event, which is what a run to a tolerance needs. Ends are those at these rates, flows
  // in ascending order.
  // REQUIRES: now() <= to.
  struct End {
    FlowId flow = 0;
    SimTime at;
  };
  std::vector<End> coast(SimTime to);

  BytesPerSecond rate(RouteId route);  // of each of its active flows; 0 where there is none
  BytesPerSecond load(LinkId link);    // bytes per second that pass it now

 private:
  static constexpr std::uint32_t kNone = ~0u;

  struct Flow {
    double target;  // bytes of its route at which it ends, see Route::offset
    FlowId id;
  };

  // A route with flows, as it stands among its bottleneck's own: one cache line.
  struct alignas(64) Own {
    std::array<LinkId, kMaxLinks> links{};
    std::uint32_t size : 8 = 0;  // links in use
    std::uint32_t flows : 24 = 0;
    RouteId id = 0;
    double due = 0;     // Link::served at which its first flow ends
    double offset = 0;  // Link::served when each flow had got 0 bytes of this route

    std::span<const LinkId> way() const { return {links.data(), static_cast<std::size_t>(size)}; }
  };

  // INVARIANT: a route with flows moves at the level of its link `bottleneck`, which is the least
  // among the levels of its links, to the tolerance.
  struct Route {
    LinkId bottleneck = kNone;  // kNone: no flows, or not placed yet (then `own` is in new_)
    std::uint32_t place = 0;    // in Link::own of the bottleneck, or in new_
  };
  struct Flows {  // of a route
    Own idle;     // the route while it has no flows
    std::uint32_t count = 0;
    Flow first{};
    std::vector<Flow> later;                        // heap, the next to end on top
    std::array<std::uint32_t, kMaxLinks> places{};  // in Link::routes of each link
  };

  struct Link {
    double rate = 0;
    double served = 0;  // bytes that each of its own flows has got since the start, until `updated`
    SimTime updated;
    double own_flows = 0;         // that it limits
    std::vector<Own> own;         // routes that it limits
    std::vector<RouteId> routes;  // all that have flows
  };

  // What the inner loops read and write of a link: one cache line.
  struct alignas(64) Share {
    double level;        // rate of its own routes; infinite: it has none
    double others = 0;   // load by routes that other links limit
    double fastest = 0;  // no route that another link limits is faster than this
    double low, high;    // it is queued for settle() when `others` leaves this range
    bool dirty = false;  // in queue_; then the range is infinite
  };

  void serve(LinkId l);
  void mark(LinkId l, double level);
  void shift(LinkId l, double load);
  void move(RouteId id, LinkId to);
  Own leave_own(RouteId id);
  void join_own(const Own& r, LinkId l);
  void activate(RouteId id);
  void deactivate(RouteId id);
  void place(const Own& added);
  void fill();
  void settle(LinkId l);
  void release(LinkId l, double before, double& next);
  bool capture(LinkId l, double before, double& next);
  double fair_level(LinkId l) const;
  void set_range(LinkId l);
  void solve();
  void set_end(LinkId l, double due);
  void share_unused();

  double tolerance_, same_;  // same_: rates that differ by less than this factor are equal
  SimTime now_;
  FlowId flow_count_ = 0;
  std::size_t active_ = 0;  // routes with flows
  std::vector<Route> route_;
  std::vector<Flows> flows_;
  std::vector<Link> link_;
  std::vector<Share> share_;          // parallel to link_
  std::vector<std::uint64_t> queue_;  // heap of links to settle, lowest level first
  std::vector<Own> new_;              // routes that got their first flow and have no rate yet
  std::vector<std::pair<double, RouteId>> moving_;  // scratch of settle
  std::vector<std::pair<RouteId, double>> unused_;  // scratch of coast: bytes
  // Scratch of fill, by route and by link. INVARIANT: between two fills no route of all_ has flows.
  std::vector<Own> all_;
  std::vector<RouteId> active_ids_;
  std::vector<double> open_, load_;
  // Tournament: [leaves + l] is the first end on link l, [1] the first of all.
  std::vector<SimTime> ends_;
  std::size_t leaves_ = 1;
};

// One flow of a batch.
struct FlowOf {
  RouteId route = 0;  // index into `routes`
  Bytes bytes;
  SimTime start;
};

// When each flow of a batch ends; nothing: it waits for a dead link for ever. With a tolerance
// above kExact, flows that end within that part of the time since the last start are one event (see
// coast()): in all-to-alls ends move by up to three times the tolerance, the mean by a twentieth.
std::vector<std::optional<SimTime>> flow_ends(const std::vector<BytesPerSecond>& link_rates,
                                              const std::vector<std::vector<LinkId>>& routes,
                                              const std::vector<FlowOf>& flows,
                                              double tolerance = Fluid::kExact);

}  // namespace reckon::sim
