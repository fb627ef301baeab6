// The one door to the library that multiplies matrices on a device.
#pragma once

#include <memory>

#include "real/cuda/kernels.h"

namespace reckon::real::cuda {

struct Operand {
  ConstView at;
  Index stride;  // elements from one row to the next
  bool transposed = false;
};

struct Product {
  Index m, n, k;
  bool accumulate = false;
  // One of many whose sizes differ: they may share an algorithm with others of about this size.
  bool one_of_many = false;
};

// Multiplies on one stream: cuBLASLt on a device, plain loops in emulated tests.
class Multiplier {
 public:
  virtual ~Multiplier() = default;
  // c[m,n] (+)= a[m,k] b[k,n], row-major, c's rows n apart. A transposed matrix is stored as [k,m]
  // or [n,k]. REQUIRES: a and b are of one element kind; c is Fp32 if they are. m, n, k > 0.
  virtual void multiply(const Context& c, const Product& p, const Operand& a, const Operand& b,
                        View out) = 0;
  // out[a.rows, b.rows] (+)= a b^T. False, and nothing done, if the library can't for this shape.
  virtual bool multiply_fp8(const Context& c, const Fp8Matrix& a, const Fp8Matrix& b, View out,
                            bool accumulate) = 0;
};
std::unique_ptr<Multiplier> make_multiplier();

struct Context::Library {
  std::unique_ptr<Multiplier> multiplier;
  void* scratch = nullptr;
  std::size_t bytes = 0;
};

// x[rows, cols] -> codes, or the codes of x^T. With groups, rows [offset[g], offset[g + 1]) are cut
// into blocks of 128 by themselves, each group's last block filled up with zeros: of x^T, whose
// rows then need room for rows + 128 groups codes and scales for as many blocks.
struct QuantiseShape {
  Index rows, cols;
  bool transposed = false;
  Index matrices = 1;                    // behind one another, in x, in the codes and in the scales
  const std::int32_t* offset = nullptr;  // device memory
  Index groups = 0;
};
void quantise_rows(const Context& c, const QuantiseShape& s, ConstView x, const Fp8Matrix& out);

// ---- products of groups of rows

enum class Pass : std::uint8_t { Forward, InputGrad, WeightGrad };

// One product of a pass over groups; a and b as linear_grouped_* have them.
struct GroupedCall {
  Pass pass;
  ConstView a, b;
  View out;
  bool accumulate;
};
// Through the library, group by group. False, and nothing done, where it can't or where our kernel
// is better.
bool library_grouped_product(const Context& c, const GroupedShape& s, const GroupedCall& call);

// ---- our own products (kernels_grouped.cu)

// What a group's rows are in its product: rows of the result, or what is summed over.
enum class GroupIs : std::uint8_t { Rows, Sum };

// out (+)= a b^T in E4M3 for each group. Rows: a[rows, k] PerRow, b[groups] of [n, k] Square.
// Sum: a[m, padded rows], b[n, padded rows] PerRow, as quantise_rows makes them of groups, and
// out[groups] of [m, n]. Without groups (offset null) `b` may be of either kind.
struct Fp8Groups {
  GroupIs group_is = GroupIs::Rows;
  const std::int32_t* offset = nullptr;
  Index groups = 1, rows = 0;
};
void own_fp8_product(const Context& c, const Fp8Groups& g, const Fp8Matrix& a, const Fp8Matrix& b,
                     View out, bool accumulate);

}  // namespace reckon::real::cuda
