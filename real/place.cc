#include "real/place.h"

namespace reckon::real {

Place place_of(const plan::Plan& p, int rank) {
  Place at{.rank = rank};
  at.tp = rank % p.tp;
  at.cp = rank / p.tp % p.cp;
  at.dp = rank / (p.tp * p.cp) % p.dp;
  at.pp = rank / (p.tp * p.cp * p.dp);
  const int in_stage = rank % (p.tp * p.cp * p.dp);
  at.ep = in_stage % p.ep;
  at.edp = in_stage / p.ep;
  return at;
}

int rank_at(const plan::Plan& p, const Place& place, int pp) {
  return place.rank + (pp - place.pp) * p.tp * p.cp * p.dp;
}

Peers peers_of(const plan::Plan& p, const Place& me) {
  Peers peers;
  for (int r = 0; r < plan::world_size(p); ++r) {
    const Place at = place_of(p, r);
    const bool mirror = p.schedule == plan::ScheduleKind::DualPipe && at.pp == p.pp - 1 - me.pp;
    if (at.pp != me.pp && !mirror) continue;
    peers.stage.push_back(r);
    if (at.tp == me.tp) peers.dp_cp.push_back(r);
    if (at.ep == me.ep) peers.edp.push_back(r);
    if (at.pp != me.pp) continue;
    if (at.edp == me.edp) peers.ep.push_back(r);
    if (at.dp != me.dp) continue;
    peers.tp_cp.push_back(r);
    if (at.cp == me.cp) peers.tp.push_back(r);
    if (at.tp == me.tp) peers.cp.push_back(r);
  }
  return peers;
}

}  // namespace reckon::real
