// Two ways to the same rates. fill() is the textbook loop: all rates rise together, a link that is
// full freezes its flows at its level. It serves many changes at once. solve() repairs the last
// rates link by link after few changes:
//
//   level = (rate - load of routes that other links limit) / flows that this link limits
//
// A link whose load has changed is settled again, lowest level first: it computes its level, hands
// routes that another of their links limits below that level to that link, takes routes which are
// faster than its level from the links that limit them, and passes the change of its own routes on
// to the other links they cross. When no link is left to settle, every route crosses a full link on
// which nothing is faster, which is what max-min fair means; so the order is a matter of speed
// only. A link that is not full never passes a change on, which keeps the groups of a big network
// apart.
//
// The clock is an integer; a flow ends at the tick nearest to its exact end, and what it lacks or
// has too much by then (at most half a tick of its rate) is dropped.
#include "sim/fluid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "sim/check.h"

namespace reckon::sim {

namespace {

constexpr SimTime kNever{std::numeric_limits<std::int64_t>::max()};
constexpr double kInfinite = std::numeric_limits<double>::infinity();

// Levels that differ by less than this factor are equal: the difference is rounding.
constexpr double kSame = 1 + Fluid::kExact;

constexpr auto kEndsLater = [](const auto& a, const auto& b) {
  return a.target != b.target ? a.target > b.target : a.id > b.id;
};

// When a flow that still needs `left` bytes ends.
SimTime end_after(SimTime start, double left, double rate) {
  if (left <= 0) return start;
  if (left >= rate * seconds(kNever - start).si) return kNever;  // beyond the calendar
  return start + Seconds(left / rate);
}

}  // namespace

Fluid::Fluid(const std::vector<BytesPerSecond>& link_rates, double tolerance)
    : tolerance_(tolerance),
      same_(1 + tolerance),
      link_(link_rates.size()),
      share_(link_rates.size()) {
  check(tolerance >= kExact && tolerance < 0.1, "a tolerance is small, but not below rounding");
  for (std::size_t i = 0; i < link_.size(); ++i) {
    check(std::isfinite(link_rates[i].si) && link_rates[i].si >= 0, "a link has a finite rate");
    link_[i].rate = link_rates[i].si;
    share_[i].level = kInfinite;
    set_range(static_cast<LinkId>(i));
  }
  while (leaves_ < link_.size()) leaves_ *= 2;
  ends_.assign(2 * leaves_, kNever);
}

RouteId Fluid::add_route(std::span<const LinkId> links) {
  check(!links.empty() && links.size() <= kMaxLinks, "a route has 1 to kMaxLinks links");
  Flows flows;
  Own& r = flows.idle;
  r.id = static_cast<RouteId>(route_.size());
  for (LinkId l : links) {
    check(l < link_.size(), "a route's link exists");
    const auto way = r.way();
    check(std::find(way.begin(), way.end(), l) == way.end(), "a route has no link twice");
    r.links[r.size] = l;
    ++r.size;
  }
  route_.emplace_back();
  flows_.push_back(std::move(flows));
  return static_cast<RouteId>(route_.size() - 1);
}

// ---- bookkeeping

// Brings Link::served up to now. Before any change of its level or its own routes.
void Fluid::serve(LinkId l) {
  Link& link = link_[l];
  if (link.updated == now_) return;
  if (share_[l].level != kInfinite)
    link.served += share_[l].level * seconds(now_ - link.updated).si;
  link.updated = now_;
}

// Queues a link for settle(). Levels are not negative, so the order of floats is the order of
// their bits.
void Fluid::mark(LinkId l, double level) {
  if (share_[l].dirty) return;
  share_[l].dirty = true;
  share_[l].low = -kInfinite;
  share_[l].high = kInfinite;
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(level));
  queue_.push_back(static_cast<std::uint64_t>(bits) << 32 | l);
  std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
}

// Adds to a link the load of routes that other links limit.
inline void Fluid::shift(LinkId l, double load) {
  Share& share = share_[l];
  share.others += load;
  if (share.others < share.low || share.others > share.high) [[unlikely]]
    mark(l, share.level == kInfinite ? 0 : share.level);
}

// When the link's load by others is worth a look again: a full link when its level would change by
// the tolerance, another when it would be overloaded.
void Fluid::set_range(LinkId l) {
  Share& share = share_[l];
  const bool full = share.level != kInfinite;
  const double slack = full ? tolerance_ * link_[l].own_flows * share.level : 0;
  share.low = full ? share.others - slack : -kInfinite;
  share.high = full ? share.others + slack : link_[l].rate * same_;
  share.dirty = false;
}

void Fluid::join_own(const Own& r, LinkId l) {
  Link& link = link_[l];
  route_[r.id] = {.bottleneck = l, .place = static_cast<std::uint32_t>(link.own.size())};
  link.own.push_back(r);
  link.own_flows += r.flows;
}

Fluid::Own Fluid::leave_own(RouteId id) {
  const Route at = route_[id];
  Link& link = link_[at.bottleneck];
  const Own r = link.own[at.place];
  link.own_flows -= r.flows;
  link.own[at.place] = link.own.back();
  route_[link.own[at.place].id].place = at.place;
  link.own.pop_back();
  return r;
}

// Another link limits the route from now on. What its flows have got stays.
void Fluid::move(RouteId id, LinkId to) {
  const LinkId from = route_[id].bottleneck;
  serve(from);
  serve(to);
  const double change = link_[to].served - link_[from].served;
  Own r = leave_own(id);
  r.offset += change;
  r.due += change;
  join_own(r, to);
}

void Fluid::activate(RouteId id) {
  Flows& flows = flows_[id];
  const auto way = flows.idle.way();
  for (std::size_t i = 0; i < way.size(); ++i) {
    std::vector<RouteId>& on = link_[way[i]].routes;
    flows.places[i] = static_cast<std::uint32_t>(on.size());
    on.push_back(id);
  }
  route_[id] = {.bottleneck = kNone, .place = static_cast<std::uint32_t>(new_.size())};
  new_.push_back(flows.idle);
  ++active_;
}

void Fluid::deactivate(RouteId id) {
  const auto own = flows_[id].idle.way();
  for (std::size_t i = 0; i < own.size(); ++i) {
    std::vector<RouteId>& on = link_[own[i]].routes;
    const std::uint32_t at = flows_[id].places[i];
    const RouteId last = on.back();
    on[at] = last;
    on.pop_back();
    const auto way = flows_[last].idle.way();
    const auto j = std::find(way.begin(), way.end(), own[i]) - way.begin();
    flows_[last].places[static_cast<std::size_t>(j)] = at;
  }
  route_[id].bottleneck = kNone;
  --active_;
}

// The first end on a link, whose own routes are due at `due` at the earliest.
// REQUIRES: its `served` is up to now.
void Fluid::set_end(LinkId l, double due) {
  const Link& link = link_[l];
  const SimTime end =
      link.own.empty() ? kNever : end_after(link.updated, due - link.served, share_[l].level);
  std::size_t i = leaves_ + l;
  if (ends_[i] == end) return;
  ends_[i] = end;
  for (i /= 2; i >= 1; i /= 2) {
    const SimTime first = std::min(ends_[2 * i], ends_[2 * i + 1]);
    if (ends_[i] == first) break;
    ends_[i] = first;
  }
}

// ---- rates

// Progressive filling of the whole network.
void Fluid::fill() {
  using Candidate = std::pair<double, LinkId>;
  for (std::uint64_t q : queue_) share_[static_cast<LinkId>(q)].dirty = false;
  queue_.clear();
  // Every route with flows, its offset relative to what its flows have got.
  all_.resize(route_.size());
  active_ids_.clear();
  for (const Own& r : new_) {
    all_[r.id] = r;
    active_ids_.push_back(r.id);
  }
  new_.clear();
  open_.assign(link_.size(), 0);  // flows without a rate
  load_.assign(link_.size(), 0);  // of flows that have one
  for (LinkId l = 0; l < link_.size(); ++l) {
    serve(l);
    for (Own& r : link_[l].own) {
      r.offset -= link_[l].served;
      r.due -= link_[l].served;
      all_[r.id] = r;
      active_ids_.push_back(r.id);
    }
    link_[l].own.clear();
    link_[l].own_flows = 0;
    share_[l].level = kInfinite;
    share_[l].others = 0;
    share_[l].fastest = 0;
  }
  for (RouteId id : active_ids_)
    for (LinkId l : all_[id].way()) open_[l] += all_[id].flows;
  const auto candidate = [&](LinkId l) {
    return std::max(0.0, link_[l].rate - load_[l]) / open_[l];
  };
  std::vector<Candidate> queue;
  for (LinkId l = 0; l < link_.size(); ++l)
    if (open_[l] > 0) queue.emplace_back(candidate(l), l);
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  while (!queue.empty()) {
    const auto [queued, l] = queue.front();
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
    if (open_[l] <= 0) continue;
    // Candidates only grow while flows freeze below them, so a link may move back when it comes up.
    const double level = candidate(l);
    if (level > queued) {
      queue.emplace_back(level, l);
      std::push_heap(queue.begin(), queue.end(), std::greater<>());
      continue;
    }
    share_[l].level = level;
    for (RouteId id : link_[l].routes) {
      Own& r = all_[id];
      if (r.flows == 0) continue;  // it has a rate
      for (LinkId m : r.way()) {
        open_[m] -= r.flows;
        load_[m] += r.flows * level;
        if (m == l) continue;
        share_[m].others += r.flows * level;
        share_[m].fastest = std::max(share_[m].fastest, level);
      }
      r.offset += link_[l].served;
      r.due += link_[l].served;
      join_own(r, l);
      r.flows = 0;
    }
  }
  for (LinkId l = 0; l < link_.size(); ++l) {
    double due = kInfinite;
    for (const Own& r : link_[l].own) due = std::min(due, r.due);
    set_end(l, due);
    set_range(l);
  }
}

// A first guess at which link limits a new route: the one that would leave it least.
void Fluid::place(const Own& added) {
  Own r = added;
  double least = kInfinite;
  LinkId bottleneck = r.links[0];
  for (LinkId l : r.way()) {
    const double share =
        std::max(0.0, link_[l].rate - share_[l].others) / (link_[l].own_flows + r.flows);
    if (share < least) least = share, bottleneck = l;
  }
  serve(bottleneck);
  double& level = share_[bottleneck].level;
  if (level == kInfinite) level = 0;
  for (LinkId l : r.way()) {
    if (l == bottleneck) continue;
    shift(l, r.flows * level);
    share_[l].fastest = std::max(share_[l].fastest, level);
  }
  r.offset += link_[bottleneck].served;
  r.due += link_[bottleneck].served;
  join_own(r, bottleneck);
  mark(bottleneck, level);
}

inline double Fluid::fair_level(LinkId l) const {
  const Link& link = link_[l];
  return link.own_flows > 0 ? std::max(0.0, link.rate - share_[l].others) / link.own_flows
                            : kInfinite;
}

// Hands the routes that another of their links limits below `next` to that link.
void Fluid::release(LinkId l, double before, double& next) {
  moving_.clear();
  for (const Own& r : link_[l].own) {
    double x = kInfinite;
    for (LinkId m : r.way()) x = std::min(x, share_[m].level);
    if (x * same_ < next) moving_.emplace_back(x, r.id);
  }
  std::sort(moving_.begin(), moving_.end());
  for (const auto& [x, id] : moving_) {
    if (x * same_ >= next) break;
    const Own r = link_[l].own[route_[id].place];
    LinkId to = kNone;
    for (LinkId m : r.way())
      if (to == kNone && share_[m].level == x) to = m;
    move(id, to);
    for (LinkId m : r.way()) {
      if (m == to || m == l) continue;
      shift(m, r.flows * (x - before));
      share_[m].fastest = std::max(share_[m].fastest, x);
    }
    share_[to].others -= r.flows * before;
    mark(to, x);
    share_[l].others += r.flows * x;
    share_[l].fastest = std::max(share_[l].fastest, x);
    next = fair_level(l);
  }
}

// Takes routes that are faster than `next` from the links that limit them, at the rate `before`.
// False: there are none.
bool Fluid::capture(LinkId l, double before, double& next) {
  const Link& link = link_[l];
  const bool empty = link.own.empty();
  if (empty ? share_[l].others <= link.rate * same_ : share_[l].fastest <= next * same_)
    return false;
  moving_.clear();
  double slower = 0;
  for (RouteId id : link.routes) {
    const LinkId b = route_[id].bottleneck;
    if (b == l || b == kNone) continue;
    if (empty || share_[b].level > next * same_)
      moving_.emplace_back(share_[b].level, id);
    else
      slower = std::max(slower, share_[b].level);
  }
  std::sort(moving_.begin(), moving_.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  bool captured = false;
  for (const auto& [x, id] : moving_) {
    if (captured || !empty ? x <= next * same_ : share_[l].others <= link.rate * same_) {
      slower = std::max(slower, x);
      break;
    }
    const LinkId from = route_[id].bottleneck;
    move(id, l);
    const Own& r = link.own.back();
    for (LinkId m : r.way())
      if (m != l && m != from) shift(m, r.flows * (before - x));
    share_[from].others += r.flows * before;
    mark(from, share_[from].level);
    share_[from].fastest = std::max(share_[from].fastest, before);
    share_[l].others -= r.flows * x;
    next = fair_level(l);
    captured = true;
  }
  share_[l].fastest = slower;
  return captured;
}

void Fluid::settle(LinkId l) {
  Link& link = link_[l];
  serve(l);
  const double before = link.own.empty() ? 0 : share_[l].level;
  share_[l].level = kInfinite;                    // its own routes look at their other links
  if (link.routes.empty()) share_[l].others = 0;  // not what rounding has left
  double next = fair_level(l), due;
  do {
    double slowest = kInfinite;
    due = kInfinite;
    const Share* share = share_.data();
    for (const Own& r : link.own) {
      due = std::min(due, r.due);
      for (LinkId m : r.way()) slowest = std::min(slowest, share[m].level);
    }
    if (slowest * same_ < next) {
      const std::size_t had = link.own.size();
      release(l, before, next);
      if (link.own.size() != had) {
        due = kInfinite;
        for (const Own& r : link.own) due = std::min(due, r.due);
      }
    }
  } while (capture(l, before, next));

  if (!link.own.empty()) {
    if (next <= before * kSame && before <= next * kSame) next = before;
    share_[l].level = next;
    if (next != before) {
      Share* shares = share_.data();
      for (const Own& r : link.own) {
        const double change = r.flows * (next - before);
        for (LinkId m : r.way()) {
          if (m == l) continue;
          Share& share = shares[m];
          share.fastest = std::max(share.fastest, next);
          share.others += change;
          if (share.others < share.low || share.others > share.high) [[unlikely]]
            mark(m, share.level == kInfinite ? 0 : share.level);
        }
      }
    }
  }
  set_range(l);
  set_end(l, due);
}

void Fluid::solve() {
  if (queue_.empty() && new_.empty()) return;
  // A fill costs about as much as settling every link a few times.
  if (new_.size() > 4 + active_ / 16) return fill();
  for (const Own& r : new_) place(r);
  new_.clear();
  for (std::size_t settled = 0; !queue_.empty(); ++settled) {
    if (settled > 64 + 4 * link_.size()) return fill();
    std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
    const auto l = static_cast<LinkId>(queue_.back());
    queue_.pop_back();
    settle(l);
  }
}

// ---- events

FlowId Fluid::start(RouteId id, Bytes bytes) {
  check(id < route_.size(), "a flow's route exists");
  check(std::isfinite(bytes.si) && bytes.si >= 0, "a flow has a finite size");
  Flows& flows = flows_[id];
  check(flows.count < (1u << 24) - 1, "a route has fewer than 2^24 flows at once");
  if (flows.count++ == 0) activate(id);
  const Route at = route_[id];
  const bool placed = at.bottleneck != kNone;
  if (placed) serve(at.bottleneck);
  Own& r = placed ? link_[at.bottleneck].own[at.place] : new_[at.place];
  const double got = placed ? link_[at.bottleneck].served - r.offset : 0;
  const Flow flow{got + bytes.si, flow_count_++};
  if (flows.count == 1) {
    flows.first = flow;
  } else {
    const bool sooner = kEndsLater(flows.first, flow);
    flows.later.push_back(sooner ? std::exchange(flows.first, flow) : flow);
    std::push_heap(flows.later.begin(), flows.later.end(), kEndsLater);
  }
  r.due = flows.first.target + r.offset;
  r.flows = flows.count;
  if (placed) {
    link_[at.bottleneck].own_flows += 1;
    for (LinkId l : r.way())
      if (l != at.bottleneck) shift(l, share_[at.bottleneck].level);
    mark(at.bottleneck, share_[at.bottleneck].level);
  }
  return flow.id;
}

void Fluid::set_rate(LinkId l, BytesPerSecond rate) {
  check(l < link_.size(), "the link exists");
  check(std::isfinite(rate.si) && rate.si >= 0, "a link has a finite rate");
  link_[l].rate = rate.si;
  mark(l, share_[l].level);
}

std::optional<SimTime> Fluid::next_end() {
  solve();
  if (ends_[1] == kNever) return std::nullopt;
  return ends_[1];
}

std::vector<FlowId> Fluid::advance(SimTime to) {
  solve();
  check(to <= ends_[1], "the clock moves to the next event at most");
  std::vector<FlowId> ended;
  for (const End& e : coast(to)) ended.push_back(e.flow);
  return ended;
}

std::vector<Fluid::End> Fluid::coast(SimTime to) {
  solve();
  check(now_ <= to, "the clock does not go back");
  now_ = to;
  std::vector<End> ended;
  if (ends_[1] > to) return ended;
  // The links on which something ends until then, and there the routes.
  std::vector<std::size_t> nodes = {1};
  std::vector<RouteId> due;
  while (!nodes.empty()) {
    const std::size_t i = nodes.back();
    nodes.pop_back();
    if (ends_[i] > to) continue;
    if (i < leaves_) {
      nodes.insert(nodes.end(), {2 * i + 1, 2 * i});
      continue;
    }
    const auto l = static_cast<LinkId>(i - leaves_);
    Link& link = link_[l];
    // By the very sum that set the end.
    const auto end = [&](double target) {
      return end_after(link.updated, target - link.served, share_[l].level);
    };
    due.clear();
    for (const Own& r : link.own)
      if (end(r.due) <= to) due.push_back(r.id);
    for (RouteId id : due) {
      Own& r = link.own[route_[id].place];
      Flows& flows = flows_[id];
      const std::uint32_t had = flows.count;
      std::uint32_t gone = 0;
      double unused = 0;  // bytes, from the ends until `to`
      while (gone < had) {
        const SimTime at = end(r.due);
        if (at > to) break;
        ended.push_back({flows.first.id, at});
        unused += share_[l].level * seconds(to - at).si;
        if (++gone == had) break;
        std::pop_heap(flows.later.begin(), flows.later.end(), kEndsLater);
        flows.first = flows.later.back();
        flows.later.pop_back();
        r.due = flows.first.target + r.offset;
      }
      for (LinkId m : r.way())
        if (m != l) shift(m, -(gone * share_[l].level));
      if (unused > 0) unused_.emplace_back(id, unused);
      flows.count -= gone;
      if (flows.count == 0) {
        leave_own(id);
        deactivate(id);
      } else {
        r.flows -= gone;
        link.own_flows -= gone;
      }
    }
    mark(l, share_[l].level);
  }
  share_unused();
  std::sort(ended.begin(), ended.end(), [](const End& a, const End& b) { return a.flow < b.flow; });
  return ended;
}

// What flows left unused in a coast goes to those that their links limit, in equal parts by link.
void Fluid::share_unused() {
  for (const auto& [id, bytes] : unused_) {
    const auto way = flows_[id].idle.way();
    const auto limits = [&](LinkId m) { return link_[m].own_flows > 0; };
    const auto count = std::count_if(way.begin(), way.end(), limits);
    for (LinkId m : way) {
      if (!limits(m)) continue;
      serve(m);
      link_[m].served += bytes / (static_cast<double>(count) * link_[m].own_flows);
      mark(m, share_[m].level);
    }
  }
  unused_.clear();
}

BytesPerSecond Fluid::rate(RouteId route) {
  solve();
  const LinkId b = route_[route].bottleneck;
  return BytesPerSecond(b == kNone ? 0 : share_[b].level);
}

BytesPerSecond Fluid::load(LinkId l) {
  solve();
  const double own = link_[l].own_flows;
  return BytesPerSecond(share_[l].others + (own > 0 ? own * share_[l].level : 0));
}

std::vector<std::optional<SimTime>> flow_ends(const std::vector<BytesPerSecond>& link_rates,
                                              const std::vector<std::vector<LinkId>>& routes,
                                              const std::vector<FlowOf>& flows, double tolerance) {
  Fluid fluid(link_rates, tolerance);
  for (const auto& links : routes) fluid.add_route(links);
  std::vector<std::uint32_t> order(flows.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return flows[a].start < flows[b].start; });
  std::vector<std::optional<SimTime>> ends(flows.size());
  SimTime last_start;
  for (std::size_t started = 0;;) {
    const std::optional<SimTime> end = fluid.next_end();
    if (started < order.size()) {
      const SimTime start = flows[order[started]].start;
      if (!end || start <= *end) {
        for (FlowId id : fluid.advance(start)) ends[order[id]] = start;
        for (; started < order.size() && flows[order[started]].start == start; ++started)
          fluid.start(flows[order[started]].route, flows[order[started]].bytes);
        last_start = start;
        continue;
      }
    }
    if (!end) return ends;
    SimTime to = *end;
    if (tolerance > Fluid::kExact) to += ticks(tolerance * seconds(*end - last_start));
    if (started < order.size()) to = std::min(to, flows[order[started]].start);
    for (const Fluid::End& e : fluid.coast(to)) ends[order[e.flow]] = e.at;
  }
}

}  // namespace reckon::sim
