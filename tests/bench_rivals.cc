// The one file that is compiled for the building machine: Eigen chooses its vectors when it is
// compiled, the others when they run.
#include "tests/bench_rivals.h"

#include <Eigen/Core>
#ifdef RECKON_HAS_OPENBLAS
#include <cblas.h>
#endif

namespace reckon::real::bench {

namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<const RowMajor, 0, Eigen::OuterStride<>>;

void eigen(const cpu::Product& p, cpu::Matrix a, cpu::Matrix b, float* c) {
  const View va(a.at, a.transposed ? p.k : p.m, a.transposed ? p.m : p.k,
                Eigen::OuterStride<>(a.stride));
  const View vb(b.at, b.transposed ? p.n : p.k, b.transposed ? p.k : p.n,
                Eigen::OuterStride<>(b.stride));
  Eigen::Map<RowMajor> vc(c, p.m, p.n);
  const auto into = [&](const auto& product) {
    if (p.accumulate)
      vc.noalias() += product;
    else
      vc.noalias() = product;
  };
  if (a.transposed)
    into(va.transpose() * vb);
  else if (b.transposed)
    into(va * vb.transpose());
  else
    into(va * vb);
}

#ifdef RECKON_HAS_OPENBLAS
void openblas(const cpu::Product& p, cpu::Matrix a, cpu::Matrix b, float* c) {
  const auto size = [](std::int64_t n) { return static_cast<blasint>(n); };
  cblas_sgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans,
              b.transposed ? CblasTrans : CblasNoTrans, size(p.m), size(p.n), size(p.k), p.alpha,
              a.at, size(a.stride), b.at, size(b.stride), p.accumulate ? 1 : 0, c, size(p.n));
}
#endif

}  // namespace

std::vector<Rival> rivals() {
  Eigen::setNbThreads(1);
  std::vector<Rival> result{{"Eigen", eigen}};
#ifdef RECKON_HAS_OPENBLAS
  openblas_set_num_threads(1);
  result.push_back({std::string("OpenBLAS ") + openblas_get_corename(), openblas});
#endif
  return result;
}

}  // namespace reckon::real::bench
