// The kernel model against DeepSeek's public training trace, category by category.
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <map>

#include "hw-models/cost.h"
#include "tests/hw-models/deepseek_layer.h"
#include "tests/hw-models/gpus.h"

using namespace reckon;

namespace {

struct CostOnH800 {
  hw::Stack stack{.name = "deepseek",
                  .attention = hw::AttentionKernel::Flash3,
                  .grouped_gemm = hw::GroupedGemmKernel::DeepGemm};
  hw::Gpu gpu = test::h100();

  // DeepGEMM kernels are launched on 112 of the 132 SMs, always; all others take what is free.
  hw::Cost operator()(const sim::MatMul& op) const {
    return hw::compute_cost(op, gpu, stack, op.dtype == sim::DType::Fp8Block ? 112 : 132);
  }
  hw::Cost operator()(const sim::GroupedMatMul& op) const {
    return hw::compute_cost(op, gpu, stack, 112);
  }
  hw::Cost operator()(const sim::Attention& op) const {
    return hw::compute_cost(op, gpu, stack, 132);
  }
  hw::Cost operator()(const sim::MemoryBound& op) const {
    return hw::compute_cost(op, gpu, stack, 132);
  }
  template <class Communication>
  hw::Cost operator()(const Communication&) const {
    return {};
  }
};

}  // namespace

// 4 layers. A kernel that would take more than the 112 SMs that communication leaves is slowed by
// sm_share * 132 / 112 while it runs beside one, as the engines do.
TEST_CASE("every category of a traced DeepSeek-V3 pair is within 12 %") {
  std::map<std::string, double> modelled;
  for (const test::TracedOp& op : test::deepseek_layer()) {
    const hw::Cost c = std::visit(CostOnH800{}, op.work);
    CAPTURE(op.phase, op.label);
    CHECK(c.calibrated);
    CHECK((c.sm_share > 0 && c.sm_share <= 1));
    double shared = 0;
    for (const auto& t : test::kTracedCategories)
      if (std::string(t.name) == op.category) shared = t.shared;
    const double slowed = std::max(1.0, c.sm_share * 132 / 112);
    modelled[op.category] += 4 * (c.alone / ms) * (1 - shared + shared * slowed);
  }
  double sum = 0, traced = 0;
  fmt::print("DeepSeek-V3, 4 layers F + B + W on H800, ms\n");
  for (const auto& t : test::kTracedCategories) {
    fmt::print("  {:20} modelled {:7.3f}  traced {:7.3f}  {:+5.1f} %\n", t.name, modelled[t.name],
               t.ms, 100 * (modelled[t.name] / t.ms - 1));
    CAPTURE(t.name);
    CHECK(modelled[t.name] == Approx(t.ms).epsilon(0.12));
    sum += modelled[t.name], traced += t.ms;
  }
  fmt::print("  {:20} modelled {:7.3f}  traced {:7.3f}  {:+5.1f} %\n", "all", sum, traced,
             100 * (sum / traced - 1));
  CHECK(sum == Approx(traced).epsilon(0.04));
}
