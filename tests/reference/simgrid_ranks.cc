#include "reference/simgrid_ranks.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <compare>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <simgrid/s4u.hpp>
#include <string>
#include <tuple>
#include <variant>

#include "sim/check.h"

namespace reckon::reference {

using namespace sim;

namespace {

namespace sg = simgrid::s4u;

constexpr double kRate = 1e12;  // of each link and CPU, in arbitrary units a second

// Happens once; actors wait for it.
class Event {
 public:
  void wait() {
    if (set_) return;
    if (!turnstile_) turnstile_ = sg::Semaphore::create(0);
    turnstile_->acquire();
    turnstile_->release();
  }
  void set() {
    if (set_) return;
    set_ = true;
    if (turnstile_) turnstile_->release();
  }

 private:
  bool set_ = false;
  sg::SemaphorePtr turnstile_;
};

Group group_in(const Work& work) {
  if (const auto* c = std::get_if<Collective>(&work)) return c->group;
  if (const auto* e = std::get_if<TokenExchange>(&work)) return e->group;
  if (const auto* b = std::get_if<Barrier>(&work)) return b->group;
  return {};
}

constexpr std::uint32_t kNone = ~0u;
constexpr int kBeside = kStreams;  // channel of the data-parallel collectives beside the slots

// Global numbers of a group's ranks, and the place of the rank itself.
struct Peers {
  std::vector<std::uint32_t> ranks;
  std::uint32_t place = 0;
  std::uint32_t per_node = 1;

  // Whose flows reach the rank: its place's predecessor on another node, and in the node.
  std::uint32_t before(bool nvlink) const {
    const auto size = static_cast<std::uint32_t>(ranks.size()), per = std::min(per_node, size);
    if (!nvlink) return size > per ? ranks[(place + size - per) % size] : kNone;
    const std::uint32_t node = place / per * per, width = std::min(per, size - node);
    return width > 1 ? ranks[node + (place - node + width - 1) % width] : kNone;
  }
};

// Two ranks on one channel (a stream, or kBeside) of the NICs or of NVLink. One flow at a time.
struct Way {
  bool nvlink = false;
  int channel = 0;
  std::uint32_t from = 0, to = 0;  // global numbers
  auto operator<=>(const Way&) const = default;
};

// A way's own link holds its flow to the rate that it has in isolation.
struct Limit {
  sg::Host *from = nullptr, *to = nullptr;
  sg::Link* link = nullptr;
  double share = 1;
};

// One rank: its slots, one after the other.
struct Rank {
  std::uint32_t role = 0, member = 0, global = 0;
  sg::Host* cpu = nullptr;
  std::vector<Event> go, started, ended;  // by slot; the tail last
  std::vector<double> start, end;         // likewise
  double base = 0;                        // start of the block of the slot at hand
  std::vector<Event> first_gather, last_gather;
  std::vector<std::vector<Event>> arrived;  // by slot and message
  std::vector<Event> done;                  // ops of the slot at hand
  Event reduced;                            // all gradients
};

class Simulation {
 public:
  explicit Simulation(const SimGridCase& c)
      : program_(c.program),
        times_(c.times),
        host_(c.host_per_kernel.si),
        d_(c.disturbances),
        draws_(c.disturbances),
        n_(c.program.roles[0].ranks) {}

  void run(bool shared);
  const std::vector<Rank>& ranks() const { return ranks_; }

 private:
  void platform(bool shared);
  Peers peers(const Rank& rank, const Work& work, bool data) const;
  void meet(const Peers& peers, std::uint32_t slot, std::uint32_t op, int when);
  void ways(const Rank& rank, const Peers& peers, int channel);
  void find_ways();
  sg::CommPtr flow(const Way& way, double share, double time);
  // What of a collective or exchange reaches a rank.
  struct Arrival {
    const OpCost& cost;
    double time = 0;
    int channel = 0;
  };
  void communicate(const Rank& rank, const Arrival& arrival, const Peers& peers);
  void transfer(const Rank& from, const Rank& to, const OpCost& cost);
  void compute(const Rank& rank, const OpCost& cost, double time);
  double load(const Rank& rank, const Slot& slot, const Op& op, std::uint32_t of) const;
  void run_op(Rank& rank, std::uint32_t slot, std::uint32_t index,
              const std::vector<double>& launched);
  void stream(Rank& rank, std::uint32_t slot, Stream q);
  void walk(Rank& rank);
  void reductions(Rank& rank);
  void send(const Rank& rank, std::uint32_t slot);
  Slot slot_of(const Rank& rank, std::uint32_t slot) const {
    const Role& role = program_.roles[rank.role];
    if (slot < role.slots.size()) return role.slots[slot];
    return {.block = role.tail, .phase = Phase::Optimizer};
  }
  std::vector<double> launches(const Block& block);
  std::uint32_t sender(const Rank& to, const Message& m) const {
    const std::uint32_t member = m.role == to.role ? (to.member + n_ / 2) % n_ : to.member;
    return m.role * n_ + member;
  }
  // Size of the expert-parallel group that shares the work of an op's part.
  std::uint32_t load_group(const Block& block, const Op& op) const;

  const Program& program_;
  BlockTimes& times_;
  double host_;
  const Disturbances& d_;
  Draws draws_;
  std::uint32_t n_;
  std::vector<Rank> ranks_;  // role by role
  std::map<Way, Limit> limits_;
  struct Meeting {
    std::size_t here = 0;
    Event all;
  };
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, int>,
           std::shared_ptr<Meeting>>
      meetings_;
};

void Simulation::ways(const Rank& rank, const Peers& p, int channel) {
  for (const bool nvlink : {false, true})
    if (const std::uint32_t from = p.before(nvlink); from != kNone)
      limits_[{nvlink, channel, from, rank.global}];
}

void Simulation::find_ways() {
  for (const Rank& rank : ranks_) {
    const Role& role = program_.roles[rank.role];
    for (std::uint32_t s = 0; s <= role.slots.size(); ++s) {
      const Slot slot = slot_of(rank, s);
      const Block& block = *program_.blocks[slot.block];
      for (const Op& op : block.ops)
        if (group_in(block.works[op.work]).size > 1)
          ways(rank, peers(rank, block.works[op.work], op.stream == Stream::Data),
               static_cast<int>(op.stream));
      for (std::uint32_t k = 0; k < slot.messages; ++k)
        for (const bool nvlink : {false, true})
          limits_[{nvlink, static_cast<int>(Stream::Pipe),
                   sender(rank, role.messages[slot.first_message + k]), rank.global}];
    }
    for (const Sync& sync : role.syncs)
      ways(rank, peers(rank, program_.works[sync.work], true), kBeside);
  }
}

void Simulation::platform(bool shared) {
  sg::NetZone* zone = sg::create_full_zone("cluster");
  const auto policy = shared ? sg::Link::SharingPolicy::SHARED : sg::Link::SharingPolicy::FATPIPE;
  const auto link = [&](const std::string& name) { return zone->create_link(name, kRate); };
  std::vector<sg::Link*> up[2], down[2];
  for (Rank& rank : ranks_) {
    const std::string name = std::to_string(rank.global);
    rank.cpu = zone->create_host("cpu" + name, kRate)->seal();
    for (const int kind : {0, 1}) {
      const std::string port = (kind == 0 ? "nic" : "nvlink") + name;
      up[kind].push_back(link(port + "up")->set_sharing_policy(policy)->seal());
      down[kind].push_back(link(port + "down")->set_sharing_policy(policy)->seal());
    }
  }
  std::map<std::string, sg::Host*>
      ports;  // one for each kind, channel and rank, as routes go by pair
  for (auto& [way, limit] : limits_) {
    const int kind = way.nvlink ? 1 : 0;
    const std::string name = std::to_string(kind) + "c" + std::to_string(way.channel) + "r";
    const auto port = [&](std::uint32_t rank) {
      sg::Host*& host = ports[name + std::to_string(rank)];
      if (host == nullptr) host = zone->create_host(name + std::to_string(rank), kRate)->seal();
      return host;
    };
    limit.from = port(way.from), limit.to = port(way.to);
    limit.link = link(name + std::to_string(way.from) + "t" + std::to_string(way.to))->seal();
    zone->add_route(limit.from->get_netpoint(), limit.to->get_netpoint(), nullptr, nullptr,
                    {sg::LinkInRoute(limit.link), sg::LinkInRoute(up[kind][way.from]),
                     sg::LinkInRoute(down[kind][way.to])},
                    false);
  }
  zone->seal();
}

// Groups lie side by side among the role's ranks, on the Data stream as far apart as they can; one
// that is larger than the role spans all of them.
Peers Simulation::peers(const Rank& rank, const Work& work, bool data) const {
  const Group g = group_in(work);
  auto size = static_cast<std::uint32_t>(g.size);
  Peers out{.per_node = static_cast<std::uint32_t>(std::max(1, g.per_node))};
  if (size > n_) {
    for (std::uint32_t i = 0; i < ranks_.size(); ++i) out.ranks.push_back(i);
    out.place = rank.global;
    return out;
  }
  if (n_ % size != 0) size = n_;
  const std::uint32_t step = data ? n_ / size : 1;
  const std::uint32_t first = data ? rank.member % step : rank.member / size * size;
  for (std::uint32_t k = 0; k < size; ++k) {
    if (first + k * step == rank.member) out.place = k;
    out.ranks.push_back(rank.role * n_ + first + k * step);
  }
  return out;
}

void Simulation::meet(const Peers& p, std::uint32_t slot, std::uint32_t op, int when) {
  if (p.ranks.size() <= 1) return;
  const auto key = std::tuple(p.ranks[0], p.ranks.size() > n_ ? ~0u : slot, op,
                              static_cast<std::uint32_t>(p.ranks.size()), when);
  auto& entry = meetings_[key];
  if (!entry) entry = std::make_shared<Meeting>();
  const std::shared_ptr<Meeting> meeting = entry;
  if (++meeting->here < p.ranks.size()) {
    meeting->all.wait();
    return;
  }
  meetings_.erase(key);
  meeting->all.set();
}

sg::CommPtr Simulation::flow(const Way& way, double share, double time) {
  Limit& limit = limits_.at(way);
  if (limit.share != share) limit.link->set_bandwidth(share * kRate);
  limit.share = share;
  return sg::Comm::sendto_async(limit.from, limit.to,
                                static_cast<std::uint64_t>(share * time * kRate));
}

void Simulation::communicate(const Rank& rank, const Arrival& a, const Peers& p) {
  sg::ExecPtr held;
  if (a.cost.sm_share > 0) {
    held = sg::this_actor::exec_init(1e30);
    held->set_host(rank.cpu)->set_bound(a.cost.sm_share * kRate)->start();
  }
  std::vector<sg::CommPtr> comms;
  for (const bool nvlink : {false, true}) {
    const double share = nvlink ? a.cost.nvlink_share : a.cost.nic_share;
    const std::uint32_t from = p.before(nvlink);
    if (share > 0 && from != kNone)
      comms.push_back(flow({nvlink, a.channel, from, rank.global}, share, a.time));
  }
  if (comms.empty()) sg::this_actor::sleep_for(a.time);
  for (const auto& c : comms) c->wait();
  if (held) held->cancel();
}

void Simulation::transfer(const Rank& from, const Rank& to, const OpCost& cost) {
  const bool nvlink = cost.nic_share <= 0;
  const double share = nvlink ? cost.nvlink_share : cost.nic_share;
  if (share > 0)
    flow({nvlink, static_cast<int>(Stream::Pipe), from.global, to.global}, share, cost.alone.si)
        ->wait();
  else
    sg::this_actor::sleep_for(cost.alone.si);
}

void Simulation::compute(const Rank& rank, const OpCost& cost, double time) {
  if (cost.sm_share <= 0) {
    sg::this_actor::sleep_for(time);
    return;
  }
  sg::this_actor::exec_init(time * cost.sm_share * kRate)
      ->set_host(rank.cpu)
      ->set_bound(cost.sm_share * kRate)
      ->start()
      ->wait();
}

std::uint32_t Simulation::load_group(const Block& block, const Op& op) const {
  const auto first = [](const Op& o) { return o.phase == Phase::F || o.phase == Phase::Optimizer; };
  for (const Op& o : block.ops)
    if (first(o) == first(op) && std::max<int>(0, o.part) == std::max<int>(0, op.part))
      if (const auto* e = std::get_if<TokenExchange>(&block.works[o.work]))
        return static_cast<std::uint32_t>(e->group.size);
  return 1;
}

double Simulation::load(const Rank& rank, const Slot& slot, const Op& op, std::uint32_t of) const {
  const std::uint32_t size = load_group(*program_.blocks[slot.block], op);
  if (!d_.load.any() || size <= 1) return 1;
  const bool second = op.phase != Phase::F && slot.phase == Phase::FB;
  std::vector<double> parts(size);
  draws_.load({.group = rank.role * n_ + of / size * size,
               .chunk = second ? slot.chunk2 : slot.chunk,
               .part = static_cast<std::uint32_t>(std::max<int>(0, op.part)),
               .micro_batch = second ? slot.micro_batch2 : slot.micro_batch},
              size, parts.data());
  return parts[of % size] / d_.load.reference;
}

// Seconds from the start of a block at which the host turns to each op; at the end, is done.
std::vector<double> Simulation::launches(const Block& block) {
  std::vector<double> out;
  double kernels = 0;
  for (const Op& op : block.ops) {
    out.push_back(kernels * host_);
    kernels += times_.cost(block.works[op.work]).kernels;
  }
  out.push_back(kernels * host_);
  return out;
}

void Simulation::run_op(Rank& rank, std::uint32_t slot_index, std::uint32_t index,
                        const std::vector<double>& launched) {
  const Slot slot = slot_of(rank, slot_index);
  const Block& block = *program_.blocks[slot.block];
  const Op& op = block.ops[index];
  const Work& work = block.works[op.work];
  const OpCost cost = times_.cost(work);
  for (std::uint32_t w = 0; w < op.waits; ++w) rank.done[block.waits[op.first_wait + w]].wait();
  const double begin = rank.base;
  sg::this_actor::sleep_until(begin + launched[index]);

  const bool compute_stream = op.stream == Stream::Compute || op.stream == Stream::Compute2;
  if (compute_stream && group_in(work).size <= 1) {
    double factor = draws_.device({rank.role, rank.member});
    if (d_.slot.any()) factor *= draws_.slot({rank.role, rank.member}, slot_index);
    for (const SlowRank& s : d_.devices)
      if (s.rank == RankId{rank.role, rank.member}) factor /= s.speed;
    if (std::holds_alternative<GroupedMatMul>(work)) factor *= load(rank, slot, op, rank.member);
    compute(rank, cost, cost.alone.si * factor);
  } else {
    const Peers p = peers(rank, work, op.stream == Stream::Data);
    meet(p, slot_index, index, 0);
    const auto* exchange = std::get_if<TokenExchange>(&work);
    const double factor = exchange != nullptr ? load(rank, slot, op, rank.member) : 1;
    communicate(rank, {cost, cost.alone.si * factor, static_cast<int>(op.stream)}, p);
    // All of a group end a collective together; a dispatch ends where its own tokens are there.
    if (exchange == nullptr || exchange->combine) meet(p, slot_index, index, 1);
  }
  sg::this_actor::sleep_until(begin + launched[index + 1]);
  rank.done[index].set();
}

void Simulation::stream(Rank& rank, std::uint32_t slot_index, Stream q) {
  const Block& block = *program_.blocks[slot_of(rank, slot_index).block];
  const std::vector<double> launched = launches(block);
  for (std::uint32_t i = 0; i < block.ops.size(); ++i)
    if (block.ops[i].stream == q) run_op(rank, slot_index, i, launched);
}

// What others wait for after a slot. Messages for one neighbour leave one after the other.
void Simulation::send(const Rank& rank, std::uint32_t slot) {
  struct Out {
    std::uint32_t slot = 0, message = 0, work = 0;
  };
  std::map<std::uint32_t, std::vector<Out>> out;  // by receiving rank
  for (std::uint32_t r = 0; r < program_.roles.size(); ++r) {
    const Role& role = program_.roles[r];
    const std::uint32_t to = r == rank.role ? (rank.member + n_ - n_ / 2) % n_ : rank.member;
    for (std::uint32_t s = 0; s < role.slots.size(); ++s)
      for (std::uint32_t k = 0; k < role.slots[s].messages; ++k) {
        const Message& m = role.messages[role.slots[s].first_message + k];
        if (m.role == rank.role && m.slot == slot) out[r * n_ + to].push_back({s, k, m.work});
      }
  }
  for (const auto& [to, list] : out)
    sg::Actor::create("m", rank.cpu, [this, &rank, target = to, messages = list] {
      for (const auto& o : messages) {
        transfer(rank, ranks_[target], times_.cost(program_.works[o.work]));
        ranks_[target].arrived[o.slot][o.message].set();
      }
    });
}

void Simulation::walk(Rank& rank) {
  const Role& role = program_.roles[rank.role];
  const auto slots = static_cast<std::uint32_t>(role.slots.size());
  for (std::uint32_t s = 0; s <= slots; ++s) {
    const Slot slot = slot_of(rank, s);
    const Block& block = *program_.blocks[slot.block];
    for (std::uint32_t k = 0; k < slot.messages; ++k) {
      const Message& m = role.messages[slot.first_message + k];
      program_.blocking_messages ? ranks_[sender(rank, m)].ended[m.slot].wait()
                                 : rank.arrived[s][k].wait();
    }
    const auto gathered = [&](const Sync& g) { return g.before && g.slot == s; };
    const bool gathers = std::any_of(role.syncs.begin(), role.syncs.end(), gathered);
    if (gathers && s < slots) rank.first_gather[s].wait();
    if (s == slots) rank.reduced.wait();
    rank.start[s] = sg::Engine::get_clock();
    rank.started[s].set();
    for (std::uint32_t k = 0; program_.blocking_messages && k < slot.messages; ++k) {
      const Message& m = role.messages[slot.first_message + k];
      transfer(ranks_[sender(rank, m)], rank, times_.cost(program_.works[m.work]));
    }
    rank.base = sg::Engine::get_clock();
    rank.done = std::vector<Event>(block.ops.size());
    rank.go[s].set();
    stream(rank, s, Stream::Compute);
    for (Event& e : rank.done) e.wait();
    sg::this_actor::sleep_until(rank.base + launches(block).back());
    if (gathers && s < slots) rank.last_gather[s].wait();
    rank.end[s] = sg::Engine::get_clock();
    rank.ended[s].set();
    if (s < slots && !program_.blocking_messages) send(rank, s);
  }
}

// The data-parallel collectives beside the slots, bucket by bucket. The first bucket of a slot's
// gradients is there after 1 / buckets of its undisturbed time, the last at its end.
void Simulation::reductions(Rank& rank) {
  const Role& role = program_.roles[rank.role];
  const auto piece = [&](const Sync& sync, std::uint32_t index, std::uint32_t bucket) {
    const Work& work = program_.works[sync.work];
    const OpCost cost = times_.cost(work);
    Peers p = peers(rank, work, true);
    const std::uint32_t op = 1'000'000 + index * 1000 + bucket;
    meet(p, sync.slot, op, 0);
    communicate(rank, {cost, cost.alone.si, kBeside}, p);
    meet(p, sync.slot, op, 1);
  };
  for (std::uint32_t i = 0; i < role.syncs.size(); ++i) {
    const Sync& sync = role.syncs[i];
    if (!sync.before) continue;
    for (std::uint32_t b = 0; b < sync.buckets; ++b) {
      piece(sync, i, b);
      rank.first_gather[sync.slot].set();
    }
    const auto later = [&](const Sync& s) { return &s > &sync && s.before && s.slot == sync.slot; };
    if (std::none_of(role.syncs.begin(), role.syncs.end(), later))
      rank.last_gather[sync.slot].set();
  }
  for (std::uint32_t i = 0; i < role.syncs.size(); ++i) {
    const Sync& sync = role.syncs[i];
    if (sync.before) continue;
    const double whole =
        seconds(times_.of(program_.blocks[role.slots[sync.slot].block]).duration).si;
    rank.started[sync.slot].wait();
    const double start = rank.start[sync.slot];
    for (std::uint32_t b = 0; b < sync.buckets; ++b) {
      if (b + 1 == sync.buckets)
        rank.ended[sync.slot].wait();
      else
        sg::this_actor::sleep_until(start + whole * (b + 1) / sync.buckets);
      piece(sync, i, b);
    }
  }
  rank.ended[role.slots.size() - 1].wait();
  rank.reduced.set();
}

void Simulation::run(bool shared) {
  for (std::uint32_t r = 0; r < program_.roles.size(); ++r)
    for (std::uint32_t i = 0; i < n_; ++i) {
      const std::size_t slots = program_.roles[r].slots.size();
      Rank& rank = ranks_.emplace_back();
      rank.role = r, rank.member = i, rank.global = static_cast<std::uint32_t>(ranks_.size() - 1);
      rank.go.resize(slots + 1), rank.started.resize(slots + 1), rank.ended.resize(slots + 1);
      rank.first_gather.resize(slots), rank.last_gather.resize(slots);
      rank.start.resize(slots + 1), rank.end.resize(slots + 1);
      for (const Slot& s : program_.roles[r].slots)
        rank.arrived.push_back(std::vector<Event>(s.messages));
    }
  find_ways();
  platform(shared);
  for (Rank& rank : ranks_) {
    sg::Actor::create("rank", rank.cpu, [this, &rank] { walk(rank); });
    sg::Actor::create("reductions", rank.cpu, [this, &rank] { reductions(rank); });
    for (int q = 1; q < kStreams; ++q) {
      const auto stream_q = static_cast<Stream>(q);
      const auto uses = [&](std::uint32_t block) {
        const auto& ops = program_.blocks[block]->ops;
        return std::any_of(ops.begin(), ops.end(),
                           [&](const Op& o) { return o.stream == stream_q; });
      };
      const Role& role = program_.roles[rank.role];
      if (!uses(role.tail) && std::none_of(role.slots.begin(), role.slots.end(),
                                           [&](const Slot& s) { return uses(s.block); }))
        continue;
      sg::Actor::create("stream", rank.cpu, [this, &rank, &role, stream_q] {
        for (std::uint32_t s = 0; s <= role.slots.size(); ++s) {
          rank.go[s].wait();
          stream(rank, s, stream_q);
        }
      });
    }
  }
  sg::Engine::get_instance()->run();
}

}  // namespace

std::optional<SimGridRanks> run_simgrid_ranks(const SimGridCase& c, bool shared) {
  int pipe_ends[2];
  check(pipe(pipe_ends) == 0, "a pipe opens");
  std::fflush(nullptr);
  const pid_t child = fork();
  check(child >= 0, "a process starts");
  if (child == 0) {
    close(pipe_ends[0]);
    // CM02: max-min sharing; its factors as in sim/simgrid_flows.cc.
    std::vector<std::string> words = {"reckon",
                                      "--cfg=network/model:CM02",
                                      "--cfg=network/bandwidth-factor:1",
                                      "--cfg=network/latency-factor:1",
                                      "--cfg=network/weight-S:0",
                                      "--cfg=network/TCP-gamma:0",
                                      "--cfg=network/crosstraffic:0",
                                      "--cfg=contexts/stack-size:128",
                                      "--log=root.threshold:error"};
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    int argc = static_cast<int>(argv.size());
    sg::Engine engine(&argc, argv.data());
    Simulation simulation(c);
    simulation.run(shared);
    std::FILE* out = fdopen(pipe_ends[1], "wb");
    bool written = out != nullptr;
    for (const Rank& rank : simulation.ranks())
      written = written && std::fwrite(rank.end.data(), sizeof(double), rank.end.size(), out) ==
                               rank.end.size();
    std::_Exit(written && std::fclose(out) == 0 ? 0 : 1);  // SimGrid's exit functions are not ours
  }
  close(pipe_ends[1]);
  SimGridRanks run;
  std::FILE* in = fdopen(pipe_ends[0], "rb");
  check(in != nullptr, "the pipe is readable");
  bool whole = true;
  for (const Role& role : c.program.roles) {
    const std::size_t slots = role.slots.size() + 1;
    auto& ends = run.ends.emplace_back(slots, std::vector<double>(role.ranks));
    for (std::uint32_t i = 0; i < role.ranks; ++i)
      for (std::size_t s = 0; s < slots; ++s) {
        whole = whole && std::fread(&ends[s][i], sizeof(double), 1, in) == 1;
        run.end = std::max(run.end, ends[s][i]);
      }
  }
  std::fclose(in);
  int status = 0;
  rusage use{};
  check(wait4(child, &status, 0, &use) == child, "the process is ours");
  run.cpu_seconds = static_cast<double>(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                    1e-6 * static_cast<double>(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
  if (!whole || status != 0) return {};
  return run;
}

}  // namespace reckon::reference
