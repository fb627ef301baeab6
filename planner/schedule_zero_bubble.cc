// Zero-bubble schedules: backward is split into B (input gradient, which the previous stage waits
// for) and W (weight gradient, which nobody waits for), and W fills what would be bubbles. Source
// of H1, H2 and V: Qi, Wan, Huang, Lin, "Zero Bubble Pipeline Parallelism", ICLR 2024, sections 2
// and 6.
#include <algorithm>

#include "planner/schedule_orders.h"

namespace reckon::plan {

using sim::Phase;

// Rank r starts with x (pp - 1 - r) + 1 forwards, x = 1 (ZB-H1) or 2 (ZB-H2), then runs B and F in
// turn. Its W lag x r micro-batches behind its B, so that later ranks, whose B come first, hand
// them upstream without delay; the lag is worked off at the end. Micro-batches whose W is still
// due: at most x (pp - 1) + 1, on every rank.
Order zero_bubble_order(int rank, int pp, int micro_batches, int x) {
  const int lag = x * rank, warm_up = std::min(micro_batches, x * (pp - 1 - rank) + 1);
  Order order;
  order.reserve(3 * static_cast<std::size_t>(micro_batches));
  int f = 0, w = 0;
  while (f < warm_up) order.push_back(task(Phase::F, rank, f++));
  for (int b = 0; b < micro_batches; ++b) {
    order.push_back(task(Phase::B, rank, b));
    if (b >= lag) order.push_back(task(Phase::W, rank, w++));
    if (f < micro_batches) order.push_back(task(Phase::F, rank, f++));
  }
  while (w < micro_batches) order.push_back(task(Phase::W, rank, w++));
  return order;
}

// ZB-V: the model goes down the ranks and up again, so rank r holds chunks r and 2 pp - 1 - r and
// the last rank turns a forward into a backward without a message. The pattern below is the one
// that has no bubble when F = B = W, with the activations of 2 pp chunks (as much as 1F1B's pp
// stages) on every rank. It needs 2 pp - 1 micro-batches to unfold; with fewer, the same order with
// the tasks of the missing ones left out is still legal.
Order zero_bubble_v_order(int rank, int pp, int micro_batches) {
  const int unfolded = std::max(micro_batches, 2 * pp - 1);
  const int down = rank, up = 2 * pp - 1 - rank;
  struct Side {
    int chunk, f = 0, b = 0, w = 0;
  } side[2] = {{down}, {up}};
  Order order;
  order.reserve(6 * static_cast<std::size_t>(micro_batches));
  auto add = [&](Phase phase, int s, int& next) {
    const int i = next++;
    if (i < micro_batches) order.push_back(task(phase, side[s].chunk, i));
  };
  auto forward = [&](int s) { add(Phase::F, s, side[s].f); };
  auto backward = [&](int s) { add(Phase::B, s, side[s].b); };
  auto weight = [&](int s) { add(Phase::W, s, side[s].w); };

  // Fill the way down until the first micro-batch comes back up.
  for (int i = 0; i < 2 * (pp - rank) - 1; ++i) forward(0);
  for (int i = 0; i < rank; ++i) forward(1), forward(0);
  for (int i = 0; i < pp - rank; ++i) forward(1), backward(1), weight(1);
  // Steady: one micro-batch of each chunk, everything at once.
  while (side[1].f < side[0].f || side[0].f < unfolded) {
    if (side[0].f < unfolded) forward(0);
    backward(0), weight(0);
    forward(1), backward(1), weight(1);
  }
  // Drain: B first, W where B has to wait.
  for (int i = 0; i < rank; ++i) backward(0), backward(1);
  for (int i = 0; i < pp - rank; ++i) backward(0), weight(0);
  while (side[1].w < side[1].b) weight(1);
  while (side[0].w < side[0].b) weight(0);
  return order;
}

}  // namespace reckon::plan
