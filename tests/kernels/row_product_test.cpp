// Products with weights as they are stored, against the scalar oracle, on every instruction set of this machine.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/matrices.h"

namespace tq {
namespace {

class RowProduct : public testing::TestWithParam<Isa> {
 protected:
  ThreadPool threads_{2};
  std::unique_ptr<Backend> ref_ = make_ref_backend(threads_);
  std::unique_ptr<Backend> cpu_ = make_cpu_backend(threads_, GetParam());
};

TEST_P(RowProduct, ElementsAreMultipliedExactlyForAnyNumberOfTokens) {
  for (const DType type : {DType::kF16, DType::kBF16})
    for (const int64_t columns : {6, 172, 256})
      for (int64_t tokens = 1; tokens <= 9; ++tokens) {
        const PackedTensor tensor = random_halves(type, 101, columns);
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        for (const Precision precision : {Precision::kInt8, Precision::kFloat})
          EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, precision), expected), 1e-6) << dtype_name(type) << " " << columns;
      }
}

TEST_P(RowProduct, BlocksLoseOnlyTheSixteenthBitOfTheActivations) {
  for (const char* name : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"}) {
    const bool is_large = std::string_view(name).ends_with("K");
    for (const int64_t columns : is_large ? std::vector<int64_t>{256, 768} : std::vector<int64_t>{32, 96, 576})
      for (const int64_t tokens : {1, 2, 3, 4, 7, 8, 9, 33}) {
        const PackedTensor tensor = random_blocks(name, 67, columns);
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        // A step is 1 / 32767 of the largest of 256 activations, some 3 standard deviations.
        EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kInt8), expected), 1e-4) << name << " " << columns << " " << tokens;
        EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kFloat), expected), 2e-6) << name << " " << columns << " " << tokens;
      }
  }
}

TEST_P(RowProduct, InterleavedHeadsComeInTheModelsOrder) {
  PackedTensor tensor = random_halves(DType::kF16, 96, 64);
  tensor.interleaved_head_dim = 48;
  for (const int64_t tokens : {1, 20})
    EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kInt8), multiply(*ref_, tensor, tokens, Precision::kFloat)), 1e-6);
}

TEST_P(RowProduct, ExpertsOfAStackAreTheirOwnMatrices) {
  PackedTensor blocks = random_blocks("Q8_0", 3 * 40, 64);
  blocks.shape = {3, 40, 64};
  const std::vector<float> input = gaussian(64, 5);
  for (int64_t expert = 0; expert < 3; ++expert) {
    std::vector<float> got(40), expected(40);
    for (auto& [backend, out] : {std::pair{ref_.get(), &expected}, {cpu_.get(), &got}}) {
      const auto matrix = backend->prepare(blocks, expert);
      const LinearJob job{matrix->get(), nullptr, out->data()};
      backend->linear({.input = input.data(), .tokens = 1, .jobs = {&job, 1}});
    }
    EXPECT_LT(relative(got, expected), 6e-5);
  }
}

TEST_P(RowProduct, LargestQuantsAndActivationsDoNotOverflow) {
  auto owner = std::make_shared<Buffer<uint8_t>>(size_t{16 * 34});
  for (int block = 0; block < 16; ++block) {
    uint8_t* data = owner->data() + 34 * block;
    data[0] = 0, data[1] = 0x3c;  // 1
    std::fill(data + 2, data + 34, uint8_t{0x80});
  }
  PackedTensor tensor{.codec = CodecId::kGgml, .variant = 8, .shape = {1, 512}, .parts = {}, .owner = owner};
  tensor.parts.push_back({"blocks", {DType::kU8, {16 * 34}, reinterpret_cast<const std::byte*>(owner->data())}});
  const std::vector<float> input(512, -3.0f);
  float output = 0;
  const auto matrix = cpu_->prepare(tensor);
  const LinearJob job{matrix->get(), nullptr, &output};
  cpu_->linear({.input = input.data(), .tokens = 1, .jobs = {&job, 1}});
  EXPECT_FLOAT_EQ(output, 512 * 128 * 3.0f);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, RowProduct, testing::ValuesIn(supported_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace tq
