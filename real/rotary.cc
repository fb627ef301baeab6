#include "real/rotary.h"

#include <cmath>

namespace reckon::real {

namespace {

// m(c), see plan::Yarn.
double growth(const plan::Yarn& y, double c) {
  return 1 + 0.1 * c * std::log(y.factor);
}

}  // namespace

cpu::RopeSettings rope_settings(const plan::ModelShape& model) {
  cpu::RopeSettings s{.theta = model.rope_theta};
  if (!model.yarn) return s;
  const plan::Yarn& y = *model.yarn;
  s.yarn_factor = y.factor;
  s.yarn_beta_fast = y.beta_fast;
  s.yarn_beta_slow = y.beta_slow;
  s.yarn_mscale = growth(y, y.mscale) / growth(y, y.mscale_all_dim);
  s.original_positions = y.original_positions;
  return s;
}

double score_scale(const plan::ModelShape& model) {
  if (!model.yarn) return 1;
  const double m = growth(*model.yarn, model.yarn->mscale_all_dim);
  return m * m;
}

}  // namespace reckon::real
