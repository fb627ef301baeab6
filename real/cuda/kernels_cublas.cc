// Products through cuBLASLt. It knows matrices by columns: the row-major product C = A B is asked
// for as C^T = B^T A^T, for which memory lies as it is.
//
// Which algorithm: for each shape, kinds and transposition the library's first proposal if results
// must be the same in every run; else the fastest of its first kCandidates by the clock, found when
// the shape is first seen, on the operands at hand and a result of its own. Products of groups of
// tokens have a new size in every step: those within a factor of two share what was found.
#include <cublasLt.h>

#include <array>
#include <bit>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "real/cuda/kernels_gemm.h"
#include "real/cuda/launch.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

void ok(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw CudaError(std::string(what) + ": " + cublasLtGetStatusString(status));
}
using cuda::ok;

constexpr std::size_t kWorkspace = std::size_t{64}
                                   << 20;  // cuBLAS's own default on Hopper is 32 MiB
constexpr int kCandidates = 8;
constexpr int kTrials = 5;

// What an algorithm is chosen for.
struct Key {
  std::array<std::int64_t, 3> size;
  std::array<int, 5> kinds;
  std::array<std::uint32_t, 3> alignments{};
  auto operator<=>(const Key&) const = default;
};

cudaDataType_t type_of(Element e) {
  return e == Element::Bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

class Layout {
 public:
  // A matrix as the library sees it: rows and columns by columns, `stride` from one to the next.
  Layout(cudaDataType_t type, Index rows, Index cols, Index stride) {
    ok(cublasLtMatrixLayoutCreate(&layout_, type, static_cast<std::uint64_t>(rows),
                                  static_cast<std::uint64_t>(cols), stride),
       "a matrix of cuBLASLt");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  operator cublasLtMatrixLayout_t() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class Description {
 public:
  Description() {
    ok(cublasLtMatmulDescCreate(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
       "a product of cuBLASLt");
  }
  ~Description() { cublasLtMatmulDescDestroy(description_); }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  template <class T>
  void set(cublasLtMatmulDescAttributes_t what, const T& value) {
    ok(cublasLtMatmulDescSetAttribute(description_, what, &value, sizeof value),
       "an attribute of a product of cuBLASLt");
  }
  operator cublasLtMatmulDesc_t() const { return description_; }

 private:
  cublasLtMatmulDesc_t description_ = nullptr;
};

// The largest power of two up to 256 that divides the address.
std::uint32_t alignment(const void* p) {
  const std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(p) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

class Preference {
 public:
  Preference() {
    ok(cublasLtMatmulPreferenceCreate(&preference_), "preferences of cuBLASLt");
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  }
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t what, const T& value) {
    ok(cublasLtMatmulPreferenceSetAttribute(preference_, what, &value, sizeof value),
       "preferences of cuBLASLt");
  }
  ~Preference() { cublasLtMatmulPreferenceDestroy(preference_); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  operator cublasLtMatmulPreference_t() const { return preference_; }

 private:
  cublasLtMatmulPreference_t preference_ = nullptr;
};

struct Call {
  const Description& description;
  const void *left, *right;
  const Layout &left_layout, &right_layout, &out_layout;
  void* out;
  std::size_t out_bytes;
  bool accumulate;
};

class CublasLt : public Multiplier {
 public:
  CublasLt() { ok(cublasLtCreate(&handle_), "cuBLASLt"); }
  ~CublasLt() override {
    static_cast<void>(cudaFree(workspace_));
    cublasLtDestroy(handle_);
  }

  void multiply(const Context& c, const Product& p, const Operand& a, const Operand& b,
                View out) override {
    check(a.at.element == b.at.element, "the operands of a product are of one kind");
    const cudaDataType_t type = type_of(a.at.element), out_type = type_of(out.element);
    Description d;
    const cublasOperation_t left_op = b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t right_op = a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    d.set(CUBLASLT_MATMUL_DESC_TRANSA, left_op);
    d.set(CUBLASLT_MATMUL_DESC_TRANSB, right_op);
    const Layout left(type, b.transposed ? p.k : p.n, b.transposed ? p.n : p.k, b.stride);
    const Layout right(type, a.transposed ? p.m : p.k, a.transposed ? p.k : p.m, a.stride);
    const Layout result(out_type, p.n, p.m, p.n);
    const bool share = p.one_of_many && !c.deterministic;
    const auto about = [share](Index n) {
      return share ? static_cast<Index>(std::bit_ceil(static_cast<std::uint64_t>(n))) : n;
    };
    const Key key{{about(p.m), about(p.n), about(p.k)},
                  {type, out_type, left_op, right_op, p.accumulate}};
    const bool done =
        run(c, key,
            {d, b.at.at, a.at.at, left, right, result, out.at,
             static_cast<std::size_t>(p.m * p.n * bytes_of(out.element)), p.accumulate});
    if (!done) throw CudaError("cuBLASLt has no algorithm for a product");
  }

  // The scales of PerRow and Square matrices lie as VEC128 and BLK128x128 want them (cuBLAS
  // documentation, "Block scaling"): by rows within a block of the sum, and by blocks of the sum in
  // fours.
  bool multiply_fp8(const Context& c, const Fp8Matrix& a, const Fp8Matrix& b, View out,
                    bool accumulate) override {
    constexpr Index kVector = 16;
    if (a.rows % kVector != 0 || b.rows % kVector != 0) return false;
    const Index k = fp8_stride(a.cols);
    Description d;
    d.set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    d.set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    d.set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, scale_mode(b));
    d.set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, scale_mode(a));
    d.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, b.scales);
    d.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a.scales);
    const Layout left(CUDA_R_8F_E4M3, k, b.rows, k), right(CUDA_R_8F_E4M3, k, a.rows, k),
        result(type_of(out.element), b.rows, a.rows, b.rows);
    const Key key{{a.rows, b.rows, k},
                  {CUDA_R_8F_E4M3, type_of(out.element), scale_mode(b), scale_mode(a), accumulate}};
    return run(c, key,
               {d, b.codes, a.codes, left, right, result, out.at,
                static_cast<std::size_t>(a.rows * b.rows * bytes_of(out.element)), accumulate});
  }

 private:
  static cublasLtMatmulMatrixScale_t scale_mode(const Fp8Matrix& m) {
    return m.kind == Fp8Scales::PerRow ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F
                                       : CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  }

  // False if the library has no algorithm.
  bool run(const Context& c, Key key, const Call& call) {
    key.alignments = {alignment(call.left), alignment(call.right), alignment(call.out)};
    if (workspace_ == nullptr) ok(cudaMalloc(&workspace_, kWorkspace), "cuBLASLt's workspace");
    auto found = chosen_.find(key);
    if (found == chosen_.end()) found = chosen_.emplace(key, choose(c, key, call)).first;
    if (!found->second) return false;
    const cublasStatus_t status = multiply(c, call, *found->second, call.out, call.accumulate);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
      // Found for another size of its like: now for this one.
      found->second = choose(c, key, call);
      if (!found->second) return false;
      ok(multiply(c, call, *found->second, call.out, call.accumulate), "a product of cuBLASLt");
      return true;
    }
    ok(status, "a product of cuBLASLt");
    return true;
  }

  cublasStatus_t multiply(const Context& c, const Call& call, const cublasLtMatmulAlgo_t& algorithm,
                          void* out, bool accumulate) {
    const float one = 1, beta = accumulate ? 1 : 0;
    return cublasLtMatmul(handle_, call.description, &one, call.left, call.left_layout, call.right,
                          call.right_layout, &beta, out, call.out_layout, out, call.out_layout,
                          &algorithm, workspace_, kWorkspace, c.stream);
  }

  std::optional<cublasLtMatmulAlgo_t> choose(const Context& c, const Key& key, const Call& call) {
    Preference preference;
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments[0]);
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments[1]);
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments[2]);
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments[2]);
    std::array<cublasLtMatmulHeuristicResult_t, kCandidates> proposals{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, call.description, call.left_layout, call.right_layout, call.out_layout,
        call.out_layout, preference, kCandidates, proposals.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE ||
        count == 0)
      return std::nullopt;
    ok(status, "cuBLASLt's choice of an algorithm");
    if (c.deterministic || count == 1) return proposals[0].algo;

    void* result = nullptr;  // the caller's must not change
    ok(cudaMallocAsync(&result, call.out_bytes, c.stream), "room to time products");
    ok(cudaMemsetAsync(result, 0, call.out_bytes, c.stream), "room to time products");
    cudaEvent_t begin, end;
    ok(cudaEventCreate(&begin), "an event");
    ok(cudaEventCreate(&end), "an event");
    float best = 0;
    std::optional<cublasLtMatmulAlgo_t> fastest;
    for (int i = 0; i < count; ++i) {
      const cublasLtMatmulAlgo_t& algorithm = proposals[static_cast<std::size_t>(i)].algo;
      if (multiply(c, call, algorithm, result, false) != CUBLAS_STATUS_SUCCESS) continue;
      ok(cudaEventRecord(begin, c.stream), "an event");
      for (int trial = 0; trial < kTrials; ++trial)
        ok(multiply(c, call, algorithm, result, false), "a product of cuBLASLt");
      ok(cudaEventRecord(end, c.stream), "an event");
      ok(cudaEventSynchronize(end), "the time of a product");
      float milliseconds = 0;
      ok(cudaEventElapsedTime(&milliseconds, begin, end), "the time of a product");
      if (fastest && milliseconds >= best) continue;
      best = milliseconds;
      fastest = algorithm;
    }
    ok(cudaEventDestroy(begin), "an event");
    ok(cudaEventDestroy(end), "an event");
    ok(cudaFreeAsync(result, c.stream), "room to time products");
    return fastest;
  }

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, std::optional<cublasLtMatmulAlgo_t>> chosen_;
};

}  // namespace

std::unique_ptr<Multiplier> make_multiplier() {
  return std::make_unique<CublasLt>();
}

}  // namespace reckon::real::cuda
