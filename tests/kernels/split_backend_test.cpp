// Matrices that are cut, and operations that are shared out among several backends.
#include "kernels/split/split_backend.h"

#include "kernels/cpu/cpu_backend.h"
#include "kernels/host_peers.h"
#include "kernels/matrices.h"
#include "kernels/recording_parts.h"

namespace tq {
namespace {

std::vector<PackedTensor> tensors() {
  return {random_grid(200, 172, {3, 4, 2, 5, 8, 2, 3}),
          random_grid(96, 66, {2, 2, 2}),
          random_grid(260, 256, std::vector<uint8_t>(9, 4)),
          plain(100, 65),
          random_halves(DType::kF16, 128, 96),
          random_halves(DType::kBF16, 70, 40),
          random_blocks("Q4_K", 96, 512),
          random_blocks("Q8_0", 70, 64)};
}

TEST(CutRows, DecodeToTheWholesRows) {
  for (const PackedTensor& tensor : tensors()) {
    const int64_t unit = std::max<int64_t>(32, cut_unit(tensor)), rows = tensor.rows(), columns = tensor.columns();
    const Buffer<float> whole = decode(tensor);
    for (int64_t begin = 0; begin < rows; begin += unit)
      for (int64_t end = begin + unit; begin < std::min(end, rows); end += unit) {
        const int64_t stop = std::min(end, rows);
        const PackedTensor cut = cut_rows(tensor, 0, begin, stop - begin);
        const Buffer<float> part = decode(cut);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.data() + begin * columns)) << columns << ": " << begin << " " << stop;
        if (stop == rows) break;
      }
  }
}

TEST(CutRows, OfInterleavedHeadsKeepTheOrder) {
  PackedTensor tensor = random_halves(DType::kF16, 160, 16);
  tensor.interleaved_head_dim = 40;
  EXPECT_EQ(cut_unit(tensor), 40);
  const Buffer<float> whole = decode(tensor), part = decode(cut_rows(tensor, 0, 40, 80));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.data() + 40 * 16));
}

class Split : public testing::Test {
 protected:
  std::unique_ptr<Backend> cpu() { return make_cpu_backend(threads_, best_isa()); }
  std::unique_ptr<Backend> split(size_t count) {
    std::vector<std::unique_ptr<Backend>> parts;
    for (size_t i = 0; i < count; ++i) parts.push_back(cpu());
    return make_split_backend("split", std::move(parts), make_host_peers());
  }
  ThreadPool threads_{2};
};

TEST_F(Split, HasTheProcessorComputeAsItsPartsDo) {
  for (const Isa isa : supported_isas()) {
    std::vector<std::unique_ptr<Backend>> parts;
    for (int i = 0; i < 2; ++i) parts.push_back(make_cpu_backend(threads_, isa));
    EXPECT_EQ(make_split_backend("split", std::move(parts), make_host_peers())->isa(), isa);
  }
}

TEST_F(Split, ProductsAreTheWholesToTheBit) {
  const auto whole = cpu();
  for (const PackedTensor& tensor : tensors())
    for (const Precision precision : {Precision::kInt8, Precision::kFloat, Precision::kInvariant})
      for (const int64_t tokens : {1, 2, 5, 20}) {
        const auto expected = multiply(*whole, tensor, tokens, precision);
        for (const size_t parts : {1, 2, 3, 4})
          EXPECT_EQ(multiply(*split(parts), tensor, tokens, precision), expected)
              << parts << " parts, " << codec_of(tensor.codec).info().name << " " << shape_text(tensor.shape) << ", " << tokens
              << " tokens";
      }
}

// Gates of one matrix and of two, sums that are shared out already, and values that are written again while others have a part of them.
TEST_F(Split, ChainsOfOperationsAreTheWholesToTheBit) {
  constexpr int64_t kWidth = 128;
  const PackedTensor up = random_halves(DType::kF16, 2 * kWidth, kWidth), down = random_grid(kWidth, kWidth, {4, 3, 4, 2});
  const auto run = [&](Backend& backend, int64_t tokens) {
    const auto values = gaussian(tokens * kWidth, 1);
    Floats hidden(backend, values), weight(backend, gaussian(kWidth, 2)), normed(backend, values), activated(backend, values),
        result(backend, values), both(backend, gaussian(2 * tokens * kWidth, 4)), unused(backend, values);
    const auto wide = backend.prepare(up).value(), narrow = backend.prepare(down).value();
    const NormArgs norm{hidden.data(), weight.data(), normed.data(), tokens, kWidth, 1e-5f, 0.0f};
    for (int turn = 0; turn < 3; ++turn) {
      LinearJob job{wide.get(), nullptr, both.data()};
      backend.fused_linear({.linear = {.input = normed.data(), .tokens = tokens, .jobs = {&job, 1}}, .norm = &norm});
      const GatedArgs gated{GateKind::kSilu, both.data(), both.data() + kWidth, activated.data(), tokens, kWidth, 2 * kWidth};
      job = {narrow.get(), nullptr, result.data()};
      backend.fused_linear(
          {.linear = {.input = activated.data(), .tokens = tokens, .jobs = {&job, 1}}, .gated = &gated, .sum = hidden.data()});
      backend.fused_linear({.linear = {.input = activated.data(), .tokens = tokens, .jobs = {&job, 1}}, .gated = &gated});
      backend.gated({GateKind::kGelu, result.data(), result.data(), activated.data(), tokens, kWidth, kWidth});
      backend.softcap(result.data(), tokens * kWidth, 3.0f);
      job = {narrow.get(), nullptr, both.data() + kWidth / 2};  // a part of what is shared out
      backend.linear({.input = activated.data(), .tokens = tokens, .jobs = {&job, 1}});
      backend.add(hidden.data(), result.data(), tokens * kWidth);
      job.output = unused.data();
      backend.fused_linear({.linear = {.input = activated.data(), .tokens = tokens, .jobs = {&job, 1}}, .sum = hidden.data()});
    }
    auto all = hidden.values();
    for (Floats* each : {&both, &result, &activated}) {
      const auto more = each->values();
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  };
  const auto whole = cpu();
  for (const int64_t tokens : {1, 3}) {
    const auto expected = run(*whole, tokens);
    for (const size_t parts : {2, 3, 4}) EXPECT_EQ(run(*split(parts), tokens), expected) << parts << " parts, " << tokens << " tokens";
  }
}

// As one row they would be more than cards send each other while a pass is recorded.
TEST_F(Split, LayersSendWhatIsChangedInPlaceInTheRowsThatItWasWrittenIn) {
  constexpr int64_t kTokens = 5, kWidth = 96;
  const PackedTensor tensor = random_halves(DType::kF16, kWidth, kWidth);
  const auto run = [&](Backend& backend) {
    const auto values = gaussian(kTokens * kWidth, 1);
    Floats input(backend, values), weight(backend, gaussian(kWidth, 2)), hidden(backend, values), more(backend, values),
        result(backend, values);
    const auto matrix = backend.prepare(tensor).value();
    const LinearJob job{matrix.get(), nullptr, hidden.data()};
    const NormArgs norm{hidden.data(), weight.data(), result.data(), kTokens, kWidth, 1e-5f, 0.0f};
    backend.enter_depth(0);
    backend.linear({.input = input.data(), .tokens = kTokens, .jobs = {&job, 1}});
    backend.add(hidden.data(), more.data(), kTokens * kWidth);
    backend.softcap(hidden.data(), kTokens * kWidth, 3.0f);
    backend.enter_depth(0.9);
    backend.norm(norm);
    backend.add(hidden.data(), result.data(), kTokens * kWidth);  // which all have; what is added tells the rows
    backend.enter_depth(0);
    backend.norm(norm);
    return result.values();
  };
  std::vector<Shares> gathered;
  std::vector<std::unique_ptr<Backend>> parts;
  for (int i = 0; i < 2; ++i) parts.push_back(cpu());
  const auto layers = make_layer_backend("layers", std::move(parts), std::make_unique<NotingPeers>(gathered));
  EXPECT_EQ(run(*layers), run(*cpu()));
  ASSERT_EQ(gathered.size(), 2U);
  for (const Shares& shares : gathered) EXPECT_TRUE(shares.tokens == kTokens && shares.width == kWidth) << shares.tokens;
}

// Nothing was gathered while it was recorded: what was shared out before the pass still is when it is enqueued instead.
TEST_F(Split, APassWithoutMemoryForItsRecordingBeginsWhereItBegan) {
  constexpr int64_t kWidth = 128;
  const PackedTensor first = random_grid(kWidth, kWidth, {4, 3, 4, 2}), second = random_halves(DType::kF16, kWidth, kWidth);
  Recorder recorder;
  std::vector<std::unique_ptr<Backend>> parts;
  for (const bool has_memory : {true, false}) parts.push_back(std::make_unique<RecordingBackend>(cpu(), recorder, has_memory));
  const auto recorded = make_split_backend("split", std::move(parts), std::make_unique<RecordingPeers>(recorder));
  recorder.is_on = true;
  const auto results = [&](Backend& backend) {
    std::vector<std::vector<float>> out;
    Floats input(backend, gaussian(kWidth, 1)), shared(backend, gaussian(kWidth, 2)), result(backend, gaussian(kWidth, 3));
    const auto before = backend.prepare(first).value(), within = backend.prepare(second).value();
    const int32_t token = 0;
    const Stretch stretch{.tokens = 1};
    for (uint64_t turn = 0; turn < 3; ++turn) {
      const std::vector<float> values = gaussian(kWidth, 4 + turn);
      backend.upload(input.data(), values.data(), values.size() * sizeof(float));
      LinearJob job{before.get(), nullptr, shared.data()};
      backend.linear({.input = input.data(), .tokens = 1, .jobs = {&job, 1}});
      backend.pass({.tokens = {&token, 1}, .stretches = {&stretch, 1}, .recording = 1}, [&] {
        LinearJob own{within.get(), nullptr, result.data()};
        backend.linear({.input = shared.data(), .tokens = 1, .jobs = {&own, 1}});
      });
      out.push_back(result.values());
    }
    return out;
  };
  EXPECT_EQ(results(*recorded), results(*cpu()));
  EXPECT_GT(recorder.recorded, 0);
}

}  // namespace
}  // namespace tq
