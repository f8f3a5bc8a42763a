// The CPU backend against the scalar oracle, on every instruction set of this machine.
#include "kernels/cpu/cpu_backend.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/float16.h"
#include "base/rng.h"
#include "codec/grid/grid.h"
#include "codec/grid/taps.h"

namespace tq {
namespace {

std::vector<float> gaussian(int64_t count, uint64_t seed) {
  std::vector<float> out;
  Rng rng(seed);
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<float>(rng.gaussian()));
  return out;
}

PackedTensor plain(int64_t rows, int64_t columns) {
  Buffer<float> values(static_cast<size_t>(rows * columns));
  const std::vector<float> random = gaussian(rows * columns, 3);
  std::copy(random.begin(), random.end(), values.begin());
  return plain_tensor({rows, columns}, std::move(values));
}

// Random bits are a valid grid matrix.
struct GridParts {
  std::vector<uint8_t> bits, rates, sign;
  std::vector<uint16_t> scale;
  std::vector<grid::Taps> taps;
};

PackedTensor random_grid(int64_t rows, int64_t columns, const std::vector<uint8_t>& rates) {
  auto parts = std::make_shared<GridParts>();
  parts->rates = rates;
  const grid::Layout layout(rows, columns, rates);
  Rng rng(7);
  parts->bits.resize(layout.bytes());
  for (int64_t p = 0; p < layout.plane_rows; ++p)
    for (int64_t k = 0; k < columns; ++k)
      if (rng.bits() >> 63) parts->bits[static_cast<size_t>(layout.byte_of(p, k))] |= static_cast<uint8_t>(1 << grid::Layout::bit_of(p));
  for (int64_t r = 0; r < rows; ++r) parts->scale.push_back(float_to_f16(static_cast<float>(0.5 + rng.uniform())));
  for (int64_t k = 0; k < (columns + 7) / 8; ++k) parts->sign.push_back(static_cast<uint8_t>(rng.bits()));
  PackedTensor tensor{.codec = CodecId::kGrid, .variant = 0, .shape = {rows, columns}, .parts = {}, .owner = parts};
  const auto add = [&](const std::string& name, DType dtype, size_t count, const void* data) {
    tensor.parts.push_back({name, {dtype, {static_cast<int64_t>(count)}, static_cast<const std::byte*>(data)}});
  };
  add("bits", DType::kU8, parts->bits.size(), parts->bits.data());
  add("rates", DType::kU8, parts->rates.size(), parts->rates.data());
  add("sign", DType::kU8, parts->sign.size(), parts->sign.data());
  add("row_scale", DType::kF16, parts->scale.size(), parts->scale.data());
  for (int rate = 2; rate <= 8; ++rate) {
    const grid::Taps& taps = grid::default_taps(rate, grid::windows(rate).front());
    add(grid::taps_name(rate, static_cast<int>(taps.size())), DType::kF32, taps.size(), taps.data());
  }
  EXPECT_TRUE(codec_of(CodecId::kGrid).validate(tensor, "random"));
  return tensor;
}

std::vector<float> multiply(Backend& backend, const PackedTensor& tensor, int64_t tokens, Precision precision) {
  auto matrix = backend.prepare(tensor);
  EXPECT_TRUE(matrix);
  const std::vector<float> input = gaussian(tokens * tensor.columns(), 5), bias = gaussian(tensor.rows(), 6);
  std::vector<float> output(static_cast<size_t>(tokens * tensor.rows()));
  const LinearJob job{matrix->get(), bias.data(), output.data()};
  backend.linear({.input = input.data(), .tokens = tokens, .jobs = {&job, 1}, .precision = precision});
  return output;
}

// Root mean square of the difference, relative to that of the expected values.
double relative(const std::vector<float>& got, const std::vector<float>& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}

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
    const PackedTensor tensor = random_grid(100, 172, {3, 4, 2, 5});
    const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
    EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kFloat), expected), 2e-6) << tokens;
  }
}

// One scale per 256 rotated columns: a step of max / 127 is about 3.2 / 127 of a standard deviation, its error 1 / sqrt(12) of it: 0.7 %.
TEST_P(CpuBackend, PackedPlanesLoseOnlyTheRoundingOfTheActivations) {
  for (const auto& [rates, limit] :
       {std::pair<std::vector<uint8_t>, double>{{3, 3, 3, 3}, 0.012}, {{3, 4, 2, 5}, 0.012}, {{6, 6, 6, 6}, 1e-4}})
    for (const int64_t columns : {66, 172, 768})
      for (const int64_t tokens : {1, 2, 5, 8}) {
        const PackedTensor tensor = random_grid(100, columns, rates);
        const auto expected = multiply(*ref_, tensor, tokens, Precision::kFloat);
        EXPECT_LT(relative(multiply(*cpu_, tensor, tokens, Precision::kInt8), expected), limit) << columns << " " << tokens;
      }
}

TEST_P(CpuBackend, ResultsDoNotDependOnTheNumberOfThreads) {
  ThreadPool one(1);
  const auto alone = make_cpu_backend(one, GetParam());
  const PackedTensor tensor = random_grid(333, 256, std::vector<uint8_t>(11, 3));
  for (const int64_t tokens : {1, 5, 20})
    EXPECT_EQ(multiply(*alone, tensor, tokens, Precision::kInt8), multiply(*cpu_, tensor, tokens, Precision::kInt8));
}

TEST_P(CpuBackend, AttentionIsTheOracles) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    for (const int64_t window : {0, 9}) {
      for (const int64_t tokens : {1, 3, 50}) {
        constexpr int64_t kHeads = 4, kKvHeads = 2, kDim = 40, kCapacity = 64, kPast = 10;
        std::vector<std::byte> key(static_cast<size_t>(kKvHeads * kCapacity * kv_row_bytes(type, kDim))), value(key.size());
        const KvView kv{type, key.data(), value.data(), kKvHeads, kCapacity, kDim};
        const auto stored = gaussian((kPast + tokens) * kKvHeads * kDim, 8), other = gaussian((kPast + tokens) * kKvHeads * kDim, 9);
        ref_->kv_store({.key = stored.data(), .value = other.data(), .tokens = kPast + tokens, .stride = kKvHeads * kDim, .kv = kv});
        const auto query = gaussian(tokens * kHeads * kDim, 10);
        std::vector<float> expected(query.size()), got(query.size());
        AttendArgs args{.query = query.data(),
                        .output = expected.data(),
                        .tokens = tokens,
                        .heads = kHeads,
                        .stride = kHeads * kDim,
                        .first_position = kPast,
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

}  // namespace
}  // namespace tq
