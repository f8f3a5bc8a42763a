// The CPU backend against the scalar oracle, on every instruction set of this machine.
#include "kernels/cpu/cpu_backend.h"

#include "kernels/cpu/tile/tile_kernels.h"
#include "kernels/matrices.h"
#include "kernels/paged_attention.h"
#include "kernels/prompt_attention.h"

namespace tq {
namespace {

class CpuBackend : public testing::TestWithParam<Isa> {
 protected:
  ThreadPool threads_{2};
  std::unique_ptr<Backend> ref_ = make_ref_backend(threads_);
  std::unique_ptr<Backend> cpu_ = make_cpu_backend(threads_, GetParam());
};

TEST_P(CpuBackend, PlainProductsAreTheOracles) {
  for (const int64_t rows : {1, 7, 100})
    for (const int64_t columns : {66, 172, 256})
      for (const int64_t tokens : {1, 2, 7, 33}) {
        const PackedTensor tensor = plain(rows, columns);
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        // A single output may cancel to a fraction of its terms.
        EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kFloat), expected), 1e-5) << rows << " " << columns << " " << tokens;
      }
}

TEST_P(CpuBackend, GridProductsWithFloatActivationsAreTheOracles) {
  for (const int64_t tokens : {1, 9}) {
    const PackedTensor tensor = random_grid(100, 172, {3, 1, 2, 5});
    const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
    EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kFloat), expected), 2e-6) << tokens;
  }
}

// One scale per 256 rotated columns: a step of max / 127 is about 3.2 / 127 of a standard deviation, its error 1 / sqrt(12) of it: 0.7 %.
TEST_P(CpuBackend, PackedPlanesLoseOnlyTheRoundingOfTheActivations) {
  for (const auto& [rates, limit] :
       {std::pair<std::vector<uint8_t>, double>{{3, 3, 3, 3}, 0.012}, {{3, 4, 2, 5}, 0.012}, {{1, 2, 1, 4}, 0.012}, {{6, 6, 6, 6}, 1e-3}})
    for (const int64_t columns : {66, 172, 768})
      for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8}) {
        const PackedTensor tensor = random_grid(100, columns, rates);
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kInt8), expected), limit) << columns << " " << tokens;
      }
}

TEST_P(CpuBackend, RowsWhoseWindowsReachOverChunksAreComplete) {
  std::vector<uint8_t> rates;
  for (int i = 0; i < 40; ++i) rates.push_back(static_cast<uint8_t>(2 + i * 5 % 7));
  ThreadPool many(5);
  const auto cpu = make_cpu_backend(many, GetParam());
  for (const int64_t rows : {40, 130, 1270}) {
    const PackedTensor tensor = random_grid(rows, 64, {rates.begin(), rates.begin() + (rows + 31) / 32});
    const auto expected = multiply(*ref_, tensor, 2, Precision::kFloat);
    for (int repeat = 0; repeat < 20; ++repeat) ASSERT_LT(relative(multiply(*cpu, tensor, 2, Precision::kInt8), expected), 0.012) << rows;
  }
}

TEST_P(CpuBackend, LargestCodesAndActivationsAreExact) {
  for (const uint8_t rate : {2, 3, 4, 6, 8}) {
    PackedTensor tensor = random_grid(100, 512, std::vector<uint8_t>(4, rate));
    auto& parts = const_cast<GridParts&>(*static_cast<const GridParts*>(tensor.owner.get()));
    for (const bool positive : {true, false}) {
      const grid::Layout layout(100, 512, parts.rates);
      for (int64_t p = 0; p < layout.plane_rows; ++p)
        for (int64_t k = 0; k < 512; ++k) {
          uint8_t& byte = parts.bits[static_cast<size_t>(layout.byte_of(p, k))];
          byte = static_cast<uint8_t>(positive ? byte | 1 << grid::Layout::bit_of(p) : byte & ~(1 << grid::Layout::bit_of(p)));
        }
      for (const int64_t tokens : {1, 8, 9, 33}) {
        std::vector<float> input(static_cast<size_t>(tokens * 512), positive ? 2.5f : -2.5f);
        grid::unrotate(input.data(), tokens, 512, parts.sign.data());
        std::vector<float> got(static_cast<size_t>(tokens * 100)), expected(got.size());
        for (auto& [backend, out] : {std::pair{ref_.get(), &expected}, {cpu_.get(), &got}}) {
          const auto matrix = backend->prepare(tensor);
          const LinearJob job{matrix->get(), nullptr, out->data()};
          backend->linear({.input = input.data(), .tokens = tokens, .jobs = {&job, 1}});
        }
        // The rounding of one weight: half a step of some 3900, or of 124 where tiles are bytes, and larger for rates whose taps cancel.
        const bool is_bytes = tokens > 8 && cpu::is_bytes(cpu::tile_kernels(GetParam()).element[0]);
        EXPECT_LT(relative(got, expected), is_bytes ? 1.2e-2 : 2e-3) << int{rate} << " " << tokens;
      }
    }
  }
}

TEST_P(CpuBackend, ResultsDoNotDependOnTheNumberOfThreads) {
  ThreadPool one(1);
  const auto alone = make_cpu_backend(one, GetParam());
  const PackedTensor tensor = random_grid(333, 256, std::vector<uint8_t>(11, 3));
  for (const int64_t tokens : {1, 5, 20})
    EXPECT_EQ(multiply(*alone, tensor, tokens, Precision::kInt8), multiply(*cpu_, tensor, tokens, Precision::kInt8));
}

TEST_P(CpuBackend, InvariantProductsOfARowAreThoseOfOneToken) {
  const PackedTensor tensors[] = {random_grid(333, 256, std::vector<uint8_t>(11, 3)),
                                  random_grid(160, 320, {6, 2, 8, 5, 7}),
                                  plain(70, 100),
                                  random_halves(DType::kF16, 70, 96),
                                  random_halves(DType::kBF16, 33, 64),
                                  random_blocks("Q8_0", 40, 256),
                                  random_blocks("Q4_K", 40, 256),
                                  random_blocks("IQ3_S", 20, 256)};
  for (const PackedTensor& tensor : tensors) {
    const auto all = multiply(*cpu_, tensor, 37, Precision::kInvariant), one = multiply(*cpu_, tensor, 1, Precision::kInt8);
    EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin()));
    for (const int64_t tokens : {1, 2, 5, 8, 9, 20}) {
      const auto some = multiply(*cpu_, tensor, tokens, Precision::kInvariant);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << tokens << " " << tensor.variant;
    }
  }
}

TEST_P(CpuBackend, AttentionIsTheOracles) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    for (const int64_t window : {0, 9}) {
      for (const int64_t tokens : {1, 3, 50}) {
        constexpr int64_t kHeads = 4, kKvHeads = 2, kDim = 40, kCapacity = 64, kPast = 10;
        std::vector<std::byte> key(static_cast<size_t>(kKvHeads * kCapacity * kv_row_bytes(type, kDim))), value(key.size());
        const KvView kv{type, key.data(), value.data(), kKvHeads, kCapacity, kDim};
        const auto stored = gaussian((kPast + tokens) * kKvHeads * kDim, 8), other = gaussian((kPast + tokens) * kKvHeads * kDim, 9);
        const Stretch all{.tokens = kPast + tokens}, stretch{.tokens = tokens, .first_position = kPast};
        ref_->kv_store({.key = stored.data(), .value = other.data(), .stretches = {&all, 1}, .stride = kKvHeads * kDim, .kv = kv});
        const auto query = gaussian(tokens * kHeads * kDim, 10);
        std::vector<float> expected(query.size()), got(query.size());
        AttendArgs args{.query = query.data(),
                        .output = expected.data(),
                        .stretches = {&stretch, 1},
                        .heads = kHeads,
                        .stride = kHeads * kDim,
                        .kv = kv,
                        .window = window,
                        .scale = 0.2f,
                        .softcap = window ? 5.0f : 0.0f};
        ref_->attend(args);
        args.output = got.data();
        cpu_->attend(args);
        EXPECT_LT(relative(got, expected), 3e-6) << kv_type_name(type) << " " << window << " " << tokens;
      }
    }
  }
}

TEST_P(CpuBackend, AttentionOfABatchInPagesIsThatOfEachSequenceAlone) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8})
    for (const int64_t window : {0, 9})
      for (const bool only_decodes : {false, true}) {
        PagedAttention got(*cpu_, type, window, only_decodes), expected(*ref_, type, window, only_decodes);
        EXPECT_EQ(got.together(), got.one_by_one());
        EXPECT_EQ(expected.together(), expected.one_by_one());
        // A rounding to the stored type may fall to the other side.
        EXPECT_LT(relative(got.together(), expected.together()), type == KvType::kF32 ? 3e-6 : 1e-3);
      }
}

TEST_P(CpuBackend, AttentionOfManyRowsIsTheOracles) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    const PromptCase c{
        .type = type, .heads = 4, .kv_heads = 2, .dim = 64, .window = 30, .softcap = 3.0f, .stretches = {{0, 37}, {21, 1}, {40, 30}}};
    EXPECT_LT(relative(prompt_attention(*cpu_, c), prompt_attention(*ref_, c)), 1e-5) << kv_type_name(type);
  }
}

// Heads that fill no tile and more than one group of columns, positions of more than one group, windows that begin within one.
TEST_P(CpuBackend, PromptAttentionIsTheOraclesInEveryShape) {
  for (const int64_t dim : {40, 80, 320})
    for (const int64_t window : {0, 270}) {
      const PromptCase c{.type = KvType::kF32, .heads = 3, .kv_heads = 1, .dim = dim, .window = window, .stretches = {{300, 70}, {0, 5}}};
      EXPECT_LT(relative(prompt_attention(*cpu_, c), prompt_attention(*ref_, c)), 5e-6) << dim << " " << window;
    }
}

TEST_P(CpuBackend, ElementwiseOperationsAreTheOracles) {
  const auto gate = gaussian(5 * 70, 11), up = gaussian(5 * 70, 12), weight = gaussian(70, 13);
  std::vector<float> expected(gate.size()), got(gate.size());
  for (const GateKind kind : {GateKind::kSilu, GateKind::kGeluTanh, GateKind::kGelu}) {
    for (auto& [backend, out] : {std::pair{ref_.get(), &expected}, {cpu_.get(), &got}})
      backend->gated({.kind = kind, .gate = gate.data(), .up = up.data(), .output = out->data(), .tokens = 5, .width = 70, .stride = 70});
    EXPECT_LT(relative(got, expected), 1e-6);
  }
  for (auto& [backend, out] : {std::pair{ref_.get(), &expected}, {cpu_.get(), &got}})
    backend->norm(
        {.input = gate.data(), .weight = weight.data(), .output = out->data(), .count = 5, .width = 70, .epsilon = 1e-5f, .offset = 1});
  EXPECT_LT(relative(got, expected), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CpuBackend, testing::ValuesIn(supported_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

// A plain matrix before grid ones of the same input.
TEST(CpuBackend, MatricesOfDifferentCodecsShareAnInput) {
  ThreadPool threads(2);
  const PackedTensor half = random_halves(DType::kF16, 40, 256), grid = random_grid(64, 256, {3, 4});
  for (const int64_t tokens : {2, 12}) {
    const auto run = [&](Backend& backend) {
      const auto first = backend.prepare(half).value(), second = backend.prepare(grid).value();
      Floats input(backend, gaussian(tokens * 256, 1)), one(backend, gaussian(tokens * 40, 2)), two(backend, gaussian(tokens * 64, 3));
      const LinearJob jobs[] = {{first.get(), nullptr, one.data()}, {second.get(), nullptr, two.data()}};
      backend.linear({.input = input.data(), .tokens = tokens, .jobs = jobs, .precision = Precision::kFloat});
      return two.values();
    };
    EXPECT_LT(relative(run(*make_cpu_backend(threads, best_isa())), run(*make_ref_backend(threads))), 2e-6) << tokens;
  }
}

}  // namespace
}  // namespace tq
