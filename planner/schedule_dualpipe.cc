// DualPipe and DualPipeV (DeepSeek-V3 report, section 3.2.1; the loop counts are those of
// github.com/deepseek-ai/DualPipe). Eight steps per rank over two flows of micro-batches, called 0
// and 1; forward of one flow is paired with backward of the other (FB), which hides the experts'
// all-to-all.
//
// DualPipe: pp chunks, each on two ranks. Flow 0 of the first half of the ranks enters at rank 0,
// flow 1 at the last rank; the second half sees it mirrored. DualPipeV is one half of that: 2 pp
// chunks folded into a V, flow 0 passes chunk `rank` on its way down, flow 1 chunk 2 pp - 1 - rank
// on its way up.
//
// What a backward is: BW, except where the published code delays the weight gradient (step 3, the
// second half of step 6, and step 7). There it is B, and its W comes when a later slot takes the
// oldest from a queue.
#include "planner/schedule_orders.h"

namespace reckon::plan {

using sim::Phase;

namespace {

// The stretch of the model and the micro-batches that one flow has on one rank.
struct Flow {
  int chunk = 0;
  int first_micro_batch = 0;
};

// `depth`: ranks between this one and the fold (0 on the middle ranks of DualPipe and on the last
// rank of DualPipeV); `height`: ranks between this one and the end. height + depth + 1 = ranks of
// one half.
Order eight_steps(Flow flow0, Flow flow1, int height, int depth, int micro_batches_per_flow) {
  struct Progress {
    Flow flow;
    int f = 0, b = 0;
  } flow[2] = {{flow0}, {flow1}};
  Order order;
  order.reserve(5 * static_cast<std::size_t>(micro_batches_per_flow));
  std::size_t oldest = 0;  // no B before this index in `order` has its W still due

  auto forward = [&](int i) {
    Progress& p = flow[i];
    order.push_back(task(Phase::F, p.flow.chunk, p.flow.first_micro_batch + p.f++));
  };
  auto backward = [&](int i, bool delay_w) {
    Progress& p = flow[i];
    order.push_back(
        task(delay_w ? Phase::B : Phase::BW, p.flow.chunk, p.flow.first_micro_batch + p.b++));
  };
  auto weight = [&] {
    while (order[oldest].phase != Phase::B) ++oldest;
    order.push_back(
        task(Phase::W, order[oldest].chunk, static_cast<int>(order[oldest].micro_batch)));
    ++oldest;
  };
  auto pair = [&](int f, int b) {
    Progress &fp = flow[f], &bp = flow[b];
    Task t = task(Phase::FB, fp.flow.chunk, fp.flow.first_micro_batch + fp.f++);
    t.chunk2 = static_cast<std::uint16_t>(bp.flow.chunk);
    t.micro_batch2 = static_cast<std::uint32_t>(bp.flow.first_micro_batch + bp.b++);
    order.push_back(t);
  };

  // 1: F0
  for (int i = 0; i < 2 * depth; ++i) forward(0);
  // 2: F0 F1
  for (int i = 0; i <= height; ++i) forward(0), forward(1);
  // 3: B1 W1 F1
  for (int i = 0; i < depth; ++i) backward(1, true), weight(), forward(1);
  // 4, the main one: F0&B1 F1&B0
  const int main = micro_batches_per_flow - 2 * depth - (height + 1);
  for (int i = 0; i < main; ++i) {
    if (i == 0 && depth == 0)
      forward(0), backward(1, false);  // at the fold B1 waits for the F1 just before: not paired
    else
      pair(0, 1);
    pair(1, 0);
  }
  // 5: B1 F1&B0
  for (int i = 0; i < depth; ++i) backward(1, false), pair(1, 0);
  // 6: B1 B0; the second half of these height + 1 slots delays its W, 2 * (height + 1) backwards in
  // all, from the middle one on
  const int slots = height + 1;
  for (int i = 0; i < 2 * slots; ++i) backward(i % 2 == 0 ? 1 : 0, i >= slots);
  // 7: W B0
  for (int i = 0; i < depth; ++i) weight(), backward(0, true);
  // 8: W
  for (int i = 0; i < slots; ++i) weight();
  return order;
}

}  // namespace

Order dualpipe_order(int rank, int pp, int micro_batches) {
  const int half = pp / 2, mirror = pp - 1 - rank;
  const Flow from_first{.chunk = rank, .first_micro_batch = 0};
  const Flow from_last{.chunk = mirror, .first_micro_batch = micro_batches / 2};
  if (rank < half)
    return eight_steps(from_first, from_last, rank, half - 1 - rank, micro_batches / 2);
  return eight_steps(from_last, from_first, mirror, half - 1 - mirror, micro_batches / 2);
}

Order dualpipe_v_order(int rank, int pp, int micro_batches) {
  return eight_steps({.chunk = rank}, {.chunk = 2 * pp - 1 - rank}, rank, pp - 1 - rank,
                     micro_batches);
}

}  // namespace reckon::plan
