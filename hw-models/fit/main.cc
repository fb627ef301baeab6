// reckon-fit TABLES OUT.json: fits the kernel model's constants to measured tables and writes
// catalog/kernels.json. Prints per table the error on rows left out of the fit.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>

#include "hw-models/fit/fits.h"
#include "sim/input_error.h"

using namespace reckon;

namespace {

void print(const fit::FitResult& r) {
  for (const fit::TableError& t : r.tables)
    fmt::print("{:32} {:10} {:>7} {:>9} {:>8.1f} % {:>6.1f} % {:>+6.1f} %\n", t.fit, t.source,
               t.fitted_rows, t.left_out.rows, 100 * t.left_out.median, 100 * t.left_out.p90,
               100 * t.left_out.bias);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    fmt::print(stderr, "usage: reckon-fit FOLDER_OF_TABLES OUT.json\n");
    return 2;
  }
  const std::string folder = argv[1];
  const fit::FitResult gemm = fit::fit_gemm(folder);
  fmt::print("{:32} {:10} {:>7} {:>9} {:>10} {:>8} {:>8}\n", "fit", "table", "fitted", "left out",
             "median", "p90", "bias");
  const fit::FitResult attention = fit::fit_attention(folder);
  const fit::FitResult memory = fit::fit_memory(folder);
  print(gemm);
  print(attention);
  print(memory);
  fmt::print("{} fitted constants\n", gemm.constants + attention.constants + memory.constants);
  nlohmann::ordered_json out;
  out["gemm"] = gemm.rows;
  out["attention"] = attention.rows;
  out["memory"] = memory.rows;
  std::ofstream(argv[2]) << out.dump(1) << "\n";
  return 0;
} catch (const InputError& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 2;
}
