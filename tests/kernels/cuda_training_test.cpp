// The CUDA backend's training operations against the scalar oracle; skipped by name without a card.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/training_cases.h"

namespace tq {
namespace {

using Vector = std::vector<float>;

class CudaTraining : public testing::Test {
 protected:
  void SetUp() override {
    auto cuda = make_cuda_backend(threads_);
    if (!cuda) GTEST_SKIP() << cuda.error().message;
    cuda_ = std::move(*cuda);
    ASSERT_NE(cuda_->training(), nullptr);
  }
  // Of what `run` gives on the card, from what it gives on the oracle.
  template <typename Run>
  double difference(const Run& run) {
    const Vector expected = run(*ref_);
    return relative(run(*cuda_), expected);
  }

  ThreadPool threads_{4};
  std::unique_ptr<Backend> ref_ = make_ref_backend(threads_), cuda_;
};

constexpr double kTf32Limit = 1e-3;  // both factors of a product rounded to 11 bits

TEST_F(CudaTraining, SumsLossesAndStepsAreTheOracles) {
  for (const auto& [tokens, rows] : {std::pair<int64_t, int64_t>{1, 1}, {37, 130}, {300, 1000}})
    EXPECT_LT(difference([&](Backend& backend) { return run_sums(backend, tokens, rows); }), 1e-5) << tokens;
}

TEST_F(CudaTraining, ProductsAndSolutionsAreTheOracles) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {37, 130}, {300, 172}})
    EXPECT_LT(difference([&](Backend& backend) { return run_least_squares(backend, rows, columns, 0.3); }), 1e-4) << rows;
}

TEST_F(CudaTraining, SquaresTellWhereAGradientIsNoFiniteNumber) {
  EXPECT_TRUE(is_found_finite(*cuda_, 1e30f));
  EXPECT_FALSE(is_found_finite(*cuda_, NAN));
  EXPECT_FALSE(is_found_finite(*cuda_, -INFINITY));
  EXPECT_TRUE(is_found_finite(*cuda_, 1.0f));
}

TEST_F(CudaTraining, GradientsOfInputsGoThroughMatricesOfEveryKind) {
  for (const PackedTensor& tensor :
       {plain(100, 172), random_halves(DType::kF16, 100, 320), random_grid(300, 172, std::vector<uint8_t>(10, 3)),
        random_grid(96, 768, {3, 4, 2}), random_blocks("Q4_K", 64, 512)})
    for (const int64_t tokens : {1, 9, 70})
      for (const bool accumulate : {false, true}) {
        const auto run = [&](Backend& backend) {
          const auto matrix = backend.prepare(tensor).value();
          Floats gradient(backend, gaussian(tokens * tensor.rows(), 1)), out(backend, gaussian(tokens * tensor.columns(), 2));
          backend.training()->linear({matrix.get(), gradient.data(), out.data(), tokens, accumulate});
          return out.values();
        };
        EXPECT_LT(difference(run), kTf32Limit) << tensor.rows() << " " << tensor.columns() << " " << tokens << accumulate;
      }
}

TEST_F(CudaTraining, GradientsOfWeightsAddUpInBands) {
  const auto run = [](Backend& backend) {
    constexpr int64_t kTokens = 50, kColumns = 72, kRows = 33;
    Floats input(backend, gaussian(kTokens * kColumns, 1)), gradient(backend, gaussian(kTokens * kRows, 2)),
        out(backend, gaussian(kRows * kColumns, 3));
    for (const int64_t first : {0, 20})
      backend.training()->weight(
          {input.data(), gradient.data(), out.data() + first * kColumns, kTokens, kColumns, kRows, first, first == 0 ? 20 : 13});
    return out.values();
  };
  EXPECT_LT(difference(run), kTf32Limit);
}

TEST_F(CudaTraining, GradientsOfNormsAreTheOraclesInPlace) {
  for (const auto& [count, width] : {std::pair<int64_t, int64_t>{3, 10}, {200, 300}, {40, 1536}}) {
    const auto run = [&](Backend& backend) {
      Floats input(backend, gaussian(count * width, 1)), weight(backend, gaussian(width, 2)), gradient(backend, gaussian(count * width, 3)),
          sum(backend, gaussian(width, 4));
      backend.training()->norm({input.data(), weight.data(), gradient.data(), gradient.data(), sum.data(), count, width, 1e-5f, 1.0f});
      Vector all = gradient.values();
      const Vector more = sum.values();
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    EXPECT_LT(difference(run), 1e-5) << width;
  }
}

TEST_F(CudaTraining, RotationsGoBack) {
  const Vector inv_freq = {1.0f, 0.3f, 0.1f, 0.01f};
  const auto run = [&](Backend& backend) {
    Floats values(backend, gaussian(20 * 3 * 10, 1));
    const Stretch stretch{.tokens = 20, .first_position = 5};
    backend.training()->rotary({values.data(), {&stretch, 1}, 3, 10, 30, inv_freq, 1.3f});
    return values.values();
  };
  EXPECT_LT(difference(run), 1e-5);
}

struct AttentionShape {
  int64_t tokens, heads, kv_heads, dim, window;
  float softcap;
  bool fused;
};

// Query, key and value in one row a token when fused, else one after another; the gradients likewise.
Vector attention_gradient(Backend& backend, const AttentionShape& s) {
  const int64_t q = s.heads * s.dim, kv = s.kv_heads * s.dim, row = q + 2 * kv;
  Floats x(backend, gaussian(s.tokens * row, 1)), g(backend, gaussian(s.tokens * q, 2)), dx(backend, gaussian(s.tokens * row, 3));
  const int64_t key = s.fused ? q : s.tokens * q, value = s.fused ? q + kv : s.tokens * (q + kv);
  backend.training()->attend({.query = x.data(),
                              .key = x.data() + key,
                              .value = x.data() + value,
                              .gradient = g.data(),
                              .query_gradient = dx.data(),
                              .key_gradient = dx.data() + key,
                              .value_gradient = dx.data() + value,
                              .tokens = s.tokens,
                              .heads = s.heads,
                              .kv_heads = s.kv_heads,
                              .head_dim = s.dim,
                              .query_stride = s.fused ? row : q,
                              .key_stride = s.fused ? row : kv,
                              .window = s.window,
                              .scale = 0.3f,
                              .softcap = s.softcap});
  return dx.values();
}

TEST_F(CudaTraining, GradientsOfAttentionAreTheOraclesAcrossTiles) {
  for (const AttentionShape& s :
       {AttentionShape{150, 4, 2, 24, 0, 0, false}, AttentionShape{600, 6, 2, 64, 0, 0, false}, AttentionShape{560, 3, 1, 17, 100, 0, true},
        AttentionShape{140, 2, 2, 32, 7, 1.5f, true}, AttentionShape{1, 2, 1, 8, 0, 0, false}})
    EXPECT_LT(difference([&](Backend& backend) { return attention_gradient(backend, s); }), 2e-3) << s.tokens << " " << s.dim;
}

TEST_F(CudaTraining, GradientsOfGatedActivationsAreTheOracles) {
  for (const GateKind kind : {GateKind::kSilu, GateKind::kGeluTanh, GateKind::kGelu}) {
    const auto run = [&](Backend& backend) {
      Floats x(backend, gaussian(9 * 60, 1)), g(backend, gaussian(9 * 30, 2)), dx(backend, gaussian(9 * 60, 3));
      backend.training()->gated({kind, x.data(), x.data() + 30, g.data(), dx.data(), dx.data() + 30, 9, 30, 60});
      return dx.values();
    };
    EXPECT_LT(difference(run), 1e-5);
  }
}

Vector scaled(Vector values, float factor) {
  for (float& each : values) each *= factor;
  return values;
}

TEST_F(CudaTraining, LossesAndTheirGradientsAreTheOracles) {
  for (const int64_t vocabulary : {7, 1000, 50001}) {
    const std::vector<int32_t> labels = {2, -1, 6, 0, static_cast<int32_t>(vocabulary - 1)};
    const auto count = static_cast<int64_t>(labels.size());
    const auto run = [&](Backend& backend) {
      Floats logits(backend, scaled(gaussian(count * vocabulary, 4), 4)), reference(backend, scaled(gaussian(count * vocabulary, 5), 4)),
          gradient(backend, gaussian(count * vocabulary, 6));
      std::vector<double> cross(labels.size()), kl(labels.size());
      backend.training()->cross_entropy({logits.data(), labels, gradient.data(), cross.data(), vocabulary});
      Vector all = gradient.values();
      backend.training()->divergence({logits.data(), reference.data(), logits.data(), kl.data(), count, vocabulary});
      const Vector in_place = logits.values();
      all.insert(all.end(), in_place.begin(), in_place.end());
      all.insert(all.end(), cross.begin(), cross.end()), all.insert(all.end(), kl.begin(), kl.end());
      return all;
    };
    EXPECT_LT(difference(run), 1e-5) << vocabulary;
  }
}

// Where the cumulated sums of two ways of rounding part, the neighbour may be drawn.
TEST_F(CudaTraining, DrawsAreTheOracles) {
  for (const int64_t vocabulary : {7, 1000, 50001}) {
    constexpr size_t kDraws = 40;
    std::vector<double> uniform;
    for (size_t i = 0; i < kDraws; ++i) uniform.push_back((static_cast<double>(i) + 0.37) / kDraws);
    uniform.back() = std::nextafter(1.0, 0.0);
    const auto run = [&](Backend& backend) {
      Floats logits(backend, scaled(gaussian(static_cast<int64_t>(kDraws) * vocabulary, 6), 3));
      std::vector<int32_t> labels(kDraws);
      backend.training()->sample({logits.data(), uniform, labels.data(), vocabulary});
      return labels;
    };
    const auto got = run(*cuda_), expected = run(*ref_);
    size_t different = 0;
    for (size_t i = 0; i < kDraws; ++i) different += got[i] != expected[i];
    EXPECT_LE(different, 1u) << vocabulary;
  }
}

TEST_F(CudaTraining, MatricesMayBeChanged) {
  for (const PackedTensor& tensor : {random_grid(64, 96, {3, 4}), random_grid(96, 768, {6, 2, 4}), random_blocks("Q4_K", 32, 256),
                                     plain(40, 24), random_halves(DType::kBF16, 33, 64)})
    for (const int64_t tokens : {1, 9})
      EXPECT_LT(difference([&](Backend& backend) { return run_trainable(backend, tensor, tokens); }), kTf32Limit) << tensor.columns();
  const auto stored = cuda_->prepare(plain(40, 24)).value();
  EXPECT_EQ(cuda_->training()->weights(*stored), nullptr);
}

}  // namespace
}  // namespace tq
