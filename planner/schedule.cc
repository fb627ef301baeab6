// Which rank holds which chunk, what each schedule demands, and the classic orders: GPipe, 1F1B and
// interleaved 1F1B.
#include "planner/schedule.h"

#include <algorithm>

#include "planner/schedule_orders.h"
#include "sim/check.h"

namespace reckon::plan {

using sim::Phase;

namespace {

Order gpipe_order(int rank, int micro_batches) {
  Order order;
  order.reserve(2 * static_cast<std::size_t>(micro_batches));
  for (int i = 0; i < micro_batches; ++i) order.push_back(task(Phase::F, rank, i));
  for (int i = 0; i < micro_batches; ++i) order.push_back(task(Phase::BW, rank, i));
  return order;
}

// Narayanan et al. SC21, figure 4; the order of Megatron-LM. Passes go by groups of pp
// micro-batches: the whole group through the rank's first chunk, then through its second, and so
// on; backward the same with the chunks in reverse. `warm_up` forwards, then a forward and a
// backward in turn, then the rest of the backwards. vpp = 1 is plain 1F1B.
Order one_f_one_b_order(int rank, int pp, int vpp, int micro_batches) {
  const int passes = micro_batches * vpp;
  const int warm_up =
      std::min(passes, vpp == 1 ? pp - 1 - rank : 2 * (pp - 1 - rank) + (vpp - 1) * pp);
  Order order;
  order.reserve(2 * static_cast<std::size_t>(passes));
  auto pass = [&](Phase phase, int i) {
    if (vpp == 1) return order.push_back(task(phase, rank, i));
    const int group = i / (pp * vpp), nth = i % (pp * vpp) / pp;
    const int local = phase == Phase::F ? nth : vpp - 1 - nth;
    order.push_back(task(phase, local * pp + rank, group * pp + i % pp));
  };
  for (int i = 0; i < warm_up; ++i) pass(Phase::F, i);
  for (int i = warm_up; i < passes; ++i) pass(Phase::F, i), pass(Phase::BW, i - warm_up);
  for (int i = passes - warm_up; i < passes; ++i) pass(Phase::BW, i);
  return order;
}

Order order_of(ScheduleKind kind, int rank, int pp, int vpp, int micro_batches) {
  switch (kind) {
    case ScheduleKind::GPipe: return gpipe_order(rank, micro_batches);
    case ScheduleKind::OneFOneB: return one_f_one_b_order(rank, pp, 1, micro_batches);
    case ScheduleKind::Interleaved: return one_f_one_b_order(rank, pp, vpp, micro_batches);
    case ScheduleKind::ZbH1: return zero_bubble_order(rank, pp, micro_batches, 1);
    case ScheduleKind::ZbH2: return zero_bubble_order(rank, pp, micro_batches, 2);
    case ScheduleKind::ZbV: return zero_bubble_v_order(rank, pp, micro_batches);
    case ScheduleKind::DualPipe: return dualpipe_order(rank, pp, micro_batches);
    case ScheduleKind::DualPipeV: return dualpipe_v_order(rank, pp, micro_batches);
  }
  return {};
}

}  // namespace

int rank_of(ScheduleKind kind, int pp, int /*vpp*/, int micro_batches, int chunk, int micro_batch) {
  if (kind == ScheduleKind::DualPipe)
    return micro_batch < micro_batches / 2 ? chunk : pp - 1 - chunk;
  if (is_v_shaped(kind)) return chunk < pp ? chunk : 2 * pp - 1 - chunk;
  return chunk % pp;
}

Schedule make_schedule(ScheduleKind kind, int pp, int vpp, int micro_batches) {
  check(why_illegal(kind, pp, vpp, micro_batches) == nullptr, "the schedule is legal");
  Schedule s{.chunks = pp * vpp,
             .micro_batches = micro_batches,
             .bidirectional = kind == ScheduleKind::DualPipe};
  s.order.reserve(static_cast<std::size_t>(pp));
  for (int rank = 0; rank < pp; ++rank)
    s.order.push_back(order_of(kind, rank, pp, vpp, micro_batches));
  return s;
}

const char* why_illegal(ScheduleKind kind, int pp, int vpp, int micro_batches) {
  if (pp < 1 || vpp < 1 || micro_batches < 1)
    return "stages, chunks per stage and micro-batches must be at least 1";
  if (pp * vpp > 65535) return "more than 65535 chunks";
  switch (kind) {
    case ScheduleKind::GPipe:
    case ScheduleKind::OneFOneB:
    case ScheduleKind::ZbH1:
    case ScheduleKind::ZbH2:
      return vpp == 1 ? nullptr : "this schedule has one chunk per stage (vpp 1)";
    case ScheduleKind::Interleaved:
      if (pp < 2 || vpp < 2) return "interleaved 1F1B needs pp and vpp of at least 2";
      return micro_batches % pp == 0
                 ? nullptr
                 : "interleaved 1F1B needs a number of micro-batches that is a multiple of pp";
    case ScheduleKind::ZbV:
      return vpp == 2 ? nullptr : "V-shaped schedules have two chunks per stage (vpp 2)";
    case ScheduleKind::DualPipe:
      if (vpp != 1) return "DualPipe has one chunk per stage and direction (vpp 1)";
      if (pp % 2 != 0) return "DualPipe needs an even pp";
      return micro_batches % 2 == 0 && micro_batches >= 2 * pp
                 ? nullptr
                 : "DualPipe needs an even number of micro-batches of at least 2 pp";
    case ScheduleKind::DualPipeV:
      if (vpp != 2) return "V-shaped schedules have two chunks per stage (vpp 2)";
      return micro_batches >= 2 * pp ? nullptr : "DualPipeV needs at least 2 pp micro-batches";
  }
  return "unknown schedule";
}

std::int64_t published_bubble(ScheduleKind kind, int pp, int vpp, std::int64_t f, std::int64_t b,
                              std::int64_t w, std::int64_t fb) {
  switch (kind) {
    case ScheduleKind::GPipe:
    case ScheduleKind::OneFOneB: return (pp - 1) * (f + b + w);
    case ScheduleKind::Interleaved: return (pp - 1) * (f + b + w) / vpp;
    case ScheduleKind::ZbH1: return (pp - 1) * (f + b - w);
    case ScheduleKind::ZbH2: return (pp - 1) * (f + b - 2 * w);
    case ScheduleKind::ZbV: return 0;
    case ScheduleKind::DualPipe: return (pp / 2 - 1) * (fb + b - 2 * w);
    case ScheduleKind::DualPipeV: return (pp - 1) * (2 * fb + b - 2 * w) / 2;
  }
  return 0;
}

}  // namespace reckon::plan
