// Second moments, objectives and rounding on a card beside the processor's; skipped by name without a card.
#include "quantize/device_rounding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "codec/grid/taps.h"
#include "kernels/cuda/cuda_backend.h"
#include "quantize/options.h"
#include "quantize/plan.h"
#include "quantize/rotated_objective.h"
#include "quantize/statistics.h"

namespace tq {
namespace {

std::vector<float> gaussian(int64_t count, uint64_t seed) {
  std::vector<float> out(static_cast<size_t>(count));
  Rng rng(seed);
  for (float& each : out) each = static_cast<float>(rng.gaussian());
  return out;
}

// Tokens [T, C] with a common part.
std::vector<float> inputs(int64_t tokens, int64_t columns) {
  std::vector<float> out = gaussian(tokens * columns, 3);
  Rng rng(4);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto common = static_cast<float>(3 * rng.gaussian());
    for (int64_t k = 0; k < columns; ++k) out[static_cast<size_t>(t * columns + k)] += common;
  }
  return out;
}

class CudaRounding : public testing::Test {
 protected:
  void SetUp() override {
    auto cuda = make_cuda_backend(threads_);
    if (!cuda) GTEST_SKIP() << cuda.error().message;
    cuda_ = std::move(*cuda);
  }

  template <typename T>
  Memory on_card(const std::vector<T>& values) {
    auto memory = cuda_->allocate(values.size() * sizeof(T));
    EXPECT_TRUE(memory.has_value());
    cuda_->upload(memory->template as<void>(), values.data(), values.size() * sizeof(T));
    return std::move(*memory);
  }
  template <typename T>
  Buffer<T> from_card(const T* values, int64_t count) {
    Buffer<T> out(static_cast<size_t>(count));
    cuda_->download(out.data(), values, static_cast<uint64_t>(count) * sizeof(T));
    return out;
  }

  // On the card if asked for.
  SecondMoment moment(const std::vector<float>& input, int64_t columns, bool is_on_card) {
    const auto tokens = static_cast<int64_t>(input.size()) / columns;
    auto made = SecondMoment::create(columns, is_on_card ? cuda_.get() : nullptr);
    EXPECT_TRUE(made.has_value());
    const Memory copy = on_card(input);
    FloatProducts products(threads_);
    made->add(is_on_card ? copy.as<float>() : input.data(), tokens, products);
    cuda_->synchronize();
    return std::move(*made);
  }
  Objective resident(const std::vector<float>& input, int64_t columns, const std::vector<uint8_t>& sign, double damping) {
    auto [sum, weight] = moment(input, columns, true).take_sum();
    auto made = objective_on_device(sum, weight, columns, sign.data(), damping, *cuda_);
    EXPECT_TRUE(made.has_value());
    return std::move(*made);
  }

  std::vector<Rounded> round(const std::vector<RoundRequest>& requests) {
    auto rounded = round_on_device(requests, *cuda_, context_);
    EXPECT_TRUE(rounded.has_value());
    return std::move(*rounded);
  }

  ThreadPool threads_{4};
  Listener listener_;
  Context context_{.threads = threads_, .listener = listener_};
  std::unique_ptr<Backend> cuda_;
};

TEST_F(CudaRounding, MomentsAreTheHostsInBandsOfRows) {
  for (const int64_t columns : {64, 172, 2100}) {
    const std::vector<float> input = inputs(100, columns);
    SecondMoment device = moment(input, columns, true), host = moment(input, columns, false);
    device.settle();
    const Buffer<float> found = device.take(), expected = host.take();
    for (int64_t i = 0; i < columns * columns; ++i) {
      const float scale = std::sqrt(expected[static_cast<size_t>(i / columns * (columns + 1))] *
                                    expected[static_cast<size_t>(i % columns * (columns + 1))]);
      ASSERT_NEAR(found[static_cast<size_t>(i)], expected[static_cast<size_t>(i)], 2e-3f * scale) << columns << " " << i;
    }
  }
}

TEST_F(CudaRounding, ObjectivesAreTheHosts) {
  for (const int64_t columns : {64, 172, 300, 512}) {
    const std::vector<float> input = inputs(2 * columns, columns);
    const std::vector<uint8_t> sign = sign_of("tap", columns, 1);
    SecondMoment settled = moment(input, columns, true);
    settled.settle();
    const Objective host = rotated_objective(settled.take(), columns, sign.data(), 0.01), device = resident(input, columns, sign, 0.01);
    ASSERT_TRUE(device.is_on_device());
    EXPECT_NEAR(device.damping / host.damping, 1.0, 1e-4) << columns;
    const Buffer<float> hessian = from_card(device.device_hessian.as<float>(), columns * columns),
                        feedback = from_card(device.device_feedback.as<float>(), columns * columns);
    const double scale = host.damping / 0.01;
    for (size_t i = 0; i < hessian.size(); ++i) ASSERT_NEAR(hessian[i], host.hessian[i], 1e-4 * scale) << columns << " " << i;
    for (size_t i = 0; i < feedback.size(); ++i) ASSERT_NEAR(feedback[i], host.feedback[i], 1e-3) << columns << " " << i;
    for (size_t k = 0; k < host.diagonal.size(); ++k) ASSERT_NEAR(device.diagonal[k] / host.diagonal[k], 1.0, 1e-3) << columns << " " << k;
  }
}

TEST_F(CudaRounding, AMomentOfZerosIsTheIdentity) {
  const std::vector<uint8_t> sign = sign_of("tap", 64, 1);
  const Objective objective = resident(std::vector<float>(64 * 10), 64, sign, 0.01);
  EXPECT_FALSE(objective.is_on_device());
  EXPECT_TRUE(objective.feedback.empty());
}

TEST_F(CudaRounding, DampingGrowsUntilItFactors) {
  const std::vector<uint8_t> sign = sign_of("tap", 64, 1);
  const Objective objective = resident(std::vector<float>(64 * 10, 1.0f), 64, sign, 1e-9);
  EXPECT_GT(objective.damping, 1e-9);
  for (const double each : objective.diagonal) EXPECT_GT(each, 0);
}

TEST_F(CudaRounding, ErrorsOfRoundedInputsAreTheHosts) {
  for (const int64_t columns : {172, 320}) {
    const std::vector<float> input = inputs(150, columns), weight(150, 0.5f);
    const Memory copy = on_card(input);
    ActivationError host(sign_of("tap", columns, 0), columns), device(sign_of("tap", columns, 0), columns);
    ASSERT_TRUE(device.use(*cuda_));
    for (const float* each : {static_cast<const float*>(nullptr), weight.data()}) {
      host.add(input.data(), 150, threads_, each);
      device.add(copy.as<float>(), 150, threads_, each);
    }
    device.settle();
    const std::vector<double> expected = host.mean(), found = device.mean();
    for (size_t k = 0; k < expected.size(); ++k) EXPECT_NEAR(found[k] / expected[k], 1.0, 1e-3) << columns << " " << k;
  }
}

struct Problem {
  int64_t rows, columns;
  std::vector<float> weight = gaussian(rows * columns, 7);
  std::vector<uint8_t> sign = sign_of("tap", columns, 2);
  Rates rates;
  grid::TapsByRate taps;
  std::vector<double> cost = std::vector<double>(static_cast<size_t>(columns), 0.25);

  RoundRequest request(const Objective& objective) const {
    return {
        .weight = [this](int64_t first, int64_t count, float* out) { std::copy_n(weight.data() + first * columns, count * columns, out); },
        .rows = rows,
        .columns = columns,
        .sign = sign.data(),
        .objective = &objective,
        .activation_error = cost,
        .rates = rates,
        .taps = &taps,
        .isa = best_isa()};
  }
};

Problem problem(int64_t rows, int64_t columns, Effort effort, const std::vector<uint8_t>& rates) {
  Problem out{.rows = rows, .columns = columns, .rates = {}, .taps = taps_of(effort)};
  for (int64_t i = 0; i < (rows + 31) / 32; ++i) out.rates.push_back(rates[static_cast<size_t>(i) % rates.size()]);
  return out;
}

TEST_F(CudaRounding, LosesWhatTheHostLoses) {
  const Problem problems[] = {problem(300, 256, Effort::kFast, {3}),          problem(900, 172, Effort::kFast, {2, 3, 4, 5}),
                              problem(100, 320, Effort::kFast, {3, 4, 5, 6}), problem(300, 256, Effort::kNormal, {3, 4, 5, 6}),
                              problem(256, 256, Effort::kNormal, {2, 3, 4}),  problem(300, 192, Effort::kFast, {1, 2, 3, 4}),
                              problem(256, 128, Effort::kBest, {2, 1}),       problem(300, 128, Effort::kBest, {3, 4}),
                              problem(128, 256, Effort::kNormal, {7, 8})};
  for (const Problem& each : problems) {
    const std::vector<float> input = inputs(3 * each.columns, each.columns);
    SecondMoment settled = moment(input, each.columns, true);
    settled.settle();
    const Objective host = rotated_objective(settled.take(), each.columns, each.sign.data(), 0.02),
                    device = resident(input, each.columns, each.sign, 0.02);
    const Loss expected = round_to_grid(each.request(host)).loss, found = round({each.request(device)})[0].loss;
    EXPECT_NEAR(found.energy / expected.energy, 1.0, 1e-3) << each.rows;
    EXPECT_NEAR(found.error / expected.error, 1.0, 0.04) << each.rows;
    EXPECT_NEAR(found.measured_error / expected.measured_error, 1.0, 0.05) << each.rows;
    EXPECT_NEAR(found.activation_error / expected.activation_error, 1.0, 0.02) << each.rows;
  }
}

TEST_F(CudaRounding, BytesDoNotDependOnWhereThingsCameFrom) {
  const Problem own = problem(500, 256, Effort::kFast, {3, 4});
  const Problem other = problem(200, 256, Effort::kFast, {4, 6});
  const Objective device = resident(inputs(600, 256), 256, own.sign, 0.02);
  Objective host;
  host.columns = 256, host.damping = device.damping, host.diagonal = device.diagonal;
  host.hessian = from_card(device.device_hessian.as<float>(), 256 * 256);
  host.feedback = from_card(device.device_feedback.as<float>(), 256 * 256);
  const Memory weight = on_card(own.weight);
  std::vector<RoundRequest> plain = {own.request(device), other.request(device), own.request(device)}, changed = plain;
  changed[0].stored = weight.as<float>();
  changed[0].source = changed[2].source = &own;
  changed[1].objective = &host;
  const std::vector<Rounded> expected = round(plain), found = round(changed);
  for (size_t i = 0; i < expected.size(); ++i) {
    for (size_t part = 0; part < expected[i].parts.size(); ++part)
      EXPECT_EQ(found[i].parts[part].bytes, expected[i].parts[part].bytes) << i;
    EXPECT_EQ(found[i].loss.error, expected[i].loss.error) << i;
  }
  EXPECT_EQ(expected[0].parts[0].bytes, expected[2].parts[0].bytes);
}

}  // namespace
}  // namespace tq
