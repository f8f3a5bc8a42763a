// product_speed [--threads N] [--only WAY] [ROWSxCOLUMNSxDEPTH]…: float products by BLAS and by way of bfloat16: GMAC/s of each thread, all
// at once, in turn, medians; and errors relative to |x||y|, against sums in double.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/blas.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/bf16_product.h"
#include "kernels/cpu/bf16/bf16_kernel.h"

namespace {

using namespace tq;

struct Case {
  int64_t rows, columns, depth;
  bool is_left_transposed, is_right_transposed;  // stored with the depth in rows
};

// Forward, backward and gradient of weights; as large as a thread may have them.
constexpr Case kCases[] = {{512, 384, 576, false, false},   {512, 384, 576, false, true},  {512, 384, 512, true, true},
                           {512, 768, 1536, false, false},  {512, 768, 1536, false, true}, {1536, 576, 512, true, true},
                           {1024, 1024, 1024, false, false}};

struct Way {
  std::string name;
  const cpu::Bf16Kernel* kernel;  // null: BLAS
  int terms;
};

struct Operands {
  std::vector<float> left, right, output;
  cpu::Bf16Workspace workspace;
};

std::vector<float> gaussians(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  return out;
}

cpu::Bf16Operand operand(const std::vector<float>& values, int64_t count, int64_t depth, bool is_transposed) {
  return is_transposed ? cpu::Bf16Operand{values.data(), 1, count} : cpu::Bf16Operand{values.data(), depth, 1};
}

void multiply(const Case& of, const Way& way, Operands& on) {
  if (!way.kernel)
    return cblas_sgemm(CblasRowMajor, of.is_left_transposed ? CblasTrans : CblasNoTrans, of.is_right_transposed ? CblasNoTrans : CblasTrans,
                       static_cast<int>(of.rows), static_cast<int>(of.columns), static_cast<int>(of.depth), 1.0f, on.left.data(),
                       static_cast<int>(of.is_left_transposed ? of.rows : of.depth), on.right.data(),
                       static_cast<int>(of.is_right_transposed ? of.columns : of.depth), 0.0f, on.output.data(),
                       static_cast<int>(of.columns));
  cpu::bf16_product({.left = operand(on.left, of.rows, of.depth, of.is_left_transposed),
                     .right = operand(on.right, of.columns, of.depth, of.is_right_transposed),
                     .output = on.output.data(),
                     .output_stride = of.columns,
                     .rows = of.rows,
                     .columns = of.columns,
                     .depth = of.depth,
                     .terms = way.terms},
                    *way.kernel, on.workspace);
}

double error_of(const Case& of, const Operands& on) {
  double error = 0, norms = 0;
  for (int64_t i = 0; i < 2000; ++i) {
    const int64_t r = i * 37 % of.rows, c = i * 61 % of.columns;
    double sum = 0, x2 = 0, y2 = 0;
    for (int64_t k = 0; k < of.depth; ++k) {
      const double x = on.left[static_cast<size_t>(of.is_left_transposed ? k * of.rows + r : r * of.depth + k)];
      const double y = on.right[static_cast<size_t>(of.is_right_transposed ? k * of.columns + c : c * of.depth + k)];
      sum += x * y, x2 += x * x, y2 += y * y;
    }
    error += std::pow(on.output[static_cast<size_t>(r * of.columns + c)] - sum, 2), norms += x2 * y2;
  }
  return std::sqrt(error / norms);
}

double median(std::vector<double> of) {
  std::sort(of.begin(), of.end());
  return of[of.size() / 2];
}
double least(const std::vector<double>& of) { return *std::min_element(of.begin(), of.end()); }

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void measure(const Case& of, const std::vector<Way>& ways, ThreadPool& threads) {
  std::vector<Operands> on(static_cast<size_t>(threads.size()));
  for (Operands& each : on)
    each = {gaussians(of.rows * of.depth, 1),
            gaussians(of.columns * of.depth, 2),
            std::vector<float>(static_cast<size_t>(of.rows * of.columns)),
            {}};
  const double products = static_cast<double>(of.rows * of.columns * of.depth);
  const auto repeats = static_cast<int64_t>(2e9 / products) + 1;
  std::vector<std::vector<double>> seconds(ways.size());
  std::vector<double> error(ways.size());
  for (int round = 0; round < 7; ++round)
    for (size_t w = 0; w < ways.size(); ++w) {
      seconds[w].push_back(seconds_of([&] {
                             threads.run(threads.size(), 1, [&](int64_t begin, int64_t end, int) {
                               for (int64_t t = begin; t < end; ++t)
                                 for (int64_t i = 0; i < repeats; ++i) multiply(of, ways[w], on[static_cast<size_t>(t)]);
                             });
                           }) /
                           static_cast<double>(repeats));
      error[w] = error_of(of, on[0]);
    }
  std::printf("%ld x %ld x %ld%s%s\n", static_cast<long>(of.rows), static_cast<long>(of.columns), static_cast<long>(of.depth),
              of.is_left_transposed ? ", left transposed" : "", of.is_right_transposed ? ", right transposed" : "");
  for (size_t w = 0; w < ways.size(); ++w)
    std::printf("  %-22s %7.1f GMAC/s a thread, at best %7.1f, error %.1e\n", ways[w].name.c_str(), products / median(seconds[w]) / 1e9,
                products / least(seconds[w]) / 1e9, error[w]);
}

}  // namespace

int main(int argc, char** argv) {
  int count = 2;
  std::string only;
  std::vector<Case> cases;
  for (int i = 1; i < argc; ++i) {
    long rows = 0, columns = 0, depth = 0;
    if (std::string(argv[i]) == "--threads" && i + 1 < argc) count = std::stoi(argv[++i]);
    else if (std::string(argv[i]) == "--only" && i + 1 < argc) only = argv[++i];
    else if (std::sscanf(argv[i], "%ldx%ldx%ld", &rows, &columns, &depth) == 3) cases.push_back({rows, columns, depth, false, false});
  }
  if (cases.empty()) cases.assign(std::begin(kCases), std::end(kCases));
  use_one_blas_thread();
  ThreadPool threads(count);
  std::vector<Way> ways{{"sgemm", nullptr, 1}};
  for (const Isa isa : supported_isas())
    if (const cpu::Bf16Kernel* kernel = cpu::bf16_kernel(isa))
      for (const int terms : {1, 2, 3})
        ways.push_back({std::string(isa_name(isa)) + ", " + std::to_string(terms) + " terms", kernel, terms});
  std::erase_if(ways, [&](const Way& way) { return !way.name.starts_with(only); });
  for (const Case& each : cases) measure(each, ways, threads);
  return 0;
}
