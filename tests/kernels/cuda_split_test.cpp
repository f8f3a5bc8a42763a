// Two cards and more against one; skipped by name where there are not so many.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/matrices.h"

namespace tq {
namespace {

class CudaSplit : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    auto several = make_cuda_backend(threads_, {.gpus = GetParam()});
    if (!several) GTEST_SKIP() << several.error().message;
    several_ = std::move(*several);
    one_ = std::move(*make_cuda_backend(threads_));
  }
  std::vector<float> of_one(const PackedTensor& tensor, int64_t tokens, Precision precision) {
    return multiply(*one_, tensor, tokens, precision);
  }

  ThreadPool threads_{4};
  std::unique_ptr<Backend> several_, one_;
};

// Without a GEMM in between, which chooses its sums by the number of rows.
TEST_P(CudaSplit, ProductsOfFewTokensAreOneCardsToTheBit) {
  for (const PackedTensor& tensor :
       {random_grid(1008, 172, std::vector<uint8_t>(32, 3)), random_grid(528, 4608, std::vector<uint8_t>(17, 4)),
        random_grid(272, 768, {2, 3, 4, 5, 6, 7, 8, 2, 3}), random_halves(DType::kF16, 200, 320), random_blocks("Q8_0", 160, 256)})
    for (const int64_t tokens : {1, 2, 4, 5, 8, 11, 32}) {
      if (tensor.codec != CodecId::kGrid && tokens > 4) continue;
      const auto expected = of_one(tensor, tokens, Precision::kInt8), found = multiply(*several_, tensor, tokens, Precision::kInt8);
      size_t different = 0, first = 0;
      for (size_t i = 0; i < found.size(); ++i)
        if (!(found[i] == expected[i]) && different++ == 0) first = i;
      EXPECT_EQ(different, 0U) << codec_of(tensor.codec).info().name << " " << shape_text(tensor.shape) << ", " << tokens
                               << " tokens: first at token " << first / static_cast<size_t>(tensor.rows()) << ", row "
                               << first % static_cast<size_t>(tensor.rows()) << ": " << found[first] << " is " << expected[first]
                               << "; relative " << relative(found, expected);
    }
}

// 3000 are more than are sent in one go. Rows that are bands, and others.
TEST_P(CudaSplit, ProductsOfManyTokensAreOneCardsUpToTheOrderOfSums) {
  for (const int64_t tokens : {40, 60, 3000}) {
    for (const PackedTensor& tensor : {random_grid(520, 768, std::vector<uint8_t>(17, 3)),
                                       random_grid(1056, 768, std::vector<uint8_t>(33, 4)), random_halves(DType::kF16, 520, 320)})
      EXPECT_LT(relative(multiply(*several_, tensor, tokens, Precision::kInt8), of_one(tensor, tokens, Precision::kInt8)), 1e-5) << tokens;
  }
}

// Norm, gate, sums behind one another, many times: nobody overtakes.
TEST_P(CudaSplit, ChainsAreOneCardsToTheBit) {
  constexpr int64_t kWidth = 1024;
  const PackedTensor up = random_grid(kWidth, kWidth, std::vector<uint8_t>(32, 3)),
                     down = random_grid(kWidth, kWidth, std::vector<uint8_t>(32, 4));
  const auto run = [&](Backend& backend, int64_t tokens, int turns) {
    const auto values = gaussian(tokens * kWidth, 1);
    Floats hidden(backend, values), weight(backend, gaussian(kWidth, 2)), normed(backend, values), activated(backend, values),
        result(backend, values), gate(backend, values), other(backend, values);
    const auto wide = backend.prepare(up).value(), narrow = backend.prepare(down).value();
    const NormArgs norm{hidden.data(), weight.data(), normed.data(), tokens, kWidth, 1e-5f, 0.0f};
    for (int turn = 0; turn < turns; ++turn) {
      const LinearJob jobs[] = {{wide.get(), nullptr, gate.data()}, {narrow.get(), nullptr, other.data()}};
      backend.fused_linear({.linear = {.input = normed.data(), .tokens = tokens, .jobs = jobs}, .norm = &norm});
      const GatedArgs gated{GateKind::kSilu, gate.data(), other.data(), activated.data(), tokens, kWidth, kWidth};
      const LinearJob job{narrow.get(), nullptr, result.data()};
      backend.fused_linear(
          {.linear = {.input = activated.data(), .tokens = tokens, .jobs = {&job, 1}}, .gated = &gated, .sum = hidden.data()});
    }
    return hidden.values();
  };
  for (const int64_t tokens : {1, 3, 8}) {
    const auto expected = run(*one_, tokens, 100);
    const auto found = run(*several_, tokens, 100);
    EXPECT_EQ(found, expected) << tokens << " tokens; relative " << relative(found, expected);
    EXPECT_EQ(run(*several_, tokens, 100), found) << "again, " << tokens << " tokens";
  }
}

INSTANTIATE_TEST_SUITE_P(Cards, CudaSplit, testing::Values(2, 3, 4, 8));

}  // namespace
}  // namespace tq
