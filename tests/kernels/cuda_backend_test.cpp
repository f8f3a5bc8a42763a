// The CUDA backend against the scalar oracle; skipped by name without a card.
#include "kernels/cuda/cuda_backend.h"

#include "kernels/cuda_fixture.h"
#include "kernels/paged_attention.h"
#include "kernels/prompt_attention.h"

namespace tq {
namespace {

TEST_F(CudaBackend, HasTheProcessorComputeAsItIsTold) {
  EXPECT_EQ(cuda_->isa(), best_isa());
  cuda_.reset();
  const auto other = make_cuda_backend(threads_, {.host_isa = Isa::kGeneric});
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_EQ((*other)->isa(), Isa::kGeneric);
}

struct AttentionCase {
  KvType type;
  int64_t heads, kv_heads, dim, past, tokens, window;
};

std::vector<float> attention(Backend& backend, const AttentionCase& c) {
  constexpr int64_t kCapacity = 704;
  const int64_t width = c.kv_heads * c.dim, stored = c.past + c.tokens;
  const auto side = static_cast<uint64_t>(c.kv_heads * kCapacity * kv_row_bytes(c.type, c.dim));
  const Memory keys = backend.allocate(side).value(), values = backend.allocate(side).value();
  const KvView kv{c.type, keys.as<std::byte>(), values.as<std::byte>(), c.kv_heads, kCapacity, c.dim};
  Floats key(backend, gaussian(stored * width, 8)), value(backend, gaussian(stored * width, 9)),
      query(backend, gaussian(c.tokens * c.heads * c.dim, 10));
  Floats output(backend, std::vector<float>(static_cast<size_t>(c.tokens * c.heads * c.dim), NAN));
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < c.dim / 2; ++i) inv_freq.push_back(std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(c.dim)));
  const Stretch before{.tokens = c.past}, stretch{.tokens = c.tokens, .first_position = c.past};
  backend.kv_store({.key = key.data(), .value = value.data(), .stretches = {&before, 1}, .stride = width, .kv = kv});
  const RotaryArgs rotate_query{.values = query.data(),
                                .stretches = {&stretch, 1},
                                .heads = c.heads,
                                .head_dim = c.dim,
                                .stride = c.heads * c.dim,
                                .inv_freq = inv_freq};
  RotaryArgs rotate_key = rotate_query;
  rotate_key.values = key.data() + c.past * width, rotate_key.heads = c.kv_heads, rotate_key.stride = width;
  backend.rotate_store_attend(
      rotate_query, rotate_key,
      {.key = rotate_key.values, .value = value.data() + c.past * width, .stretches = {&stretch, 1}, .stride = width, .kv = kv},
      {.query = query.data(),
       .output = output.data(),
       .stretches = {&stretch, 1},
       .heads = c.heads,
       .stride = c.heads * c.dim,
       .kv = kv,
       .window = c.window,
       .scale = 0.2f,
       .softcap = c.window ? 5.0f : 0.0f});
  return output.values();
}

TEST_F(CudaBackend, RotationStoreAndAttentionAreTheOracles) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8})
    for (const int64_t window : {0, 90})
      for (const auto& [heads, kv_heads, dim] : {std::tuple<int64_t, int64_t, int64_t>{4, 2, 40}, {8, 2, 128}, {7, 1, 64}, {3, 3, 256}})
        for (const auto& [past, tokens] : {std::pair<int64_t, int64_t>{10, 1}, {650, 1}, {500, 3}, {5, 50}}) {
          const AttentionCase c{type, heads, kv_heads, dim, past, tokens, window};
          // Rounding to the stored type may fall to the other side.
          EXPECT_LT(relative(attention(*cuda_, c), attention(*ref_, c)), type == KvType::kF32 ? 1e-5 : 1e-3)
              << kv_type_name(type) << " " << window << " " << dim << " " << past << " " << tokens;
        }
}

TEST_F(CudaBackend, AttentionOfABatchInPagesIsTheOracles) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8})
    for (const int64_t window : {0, 9})
      for (const bool only_decodes : {false, true}) {
        PagedAttention got(*cuda_, type, window, only_decodes), expected(*ref_, type, window, only_decodes);
        EXPECT_LT(relative(got.together(), expected.together()), type == KvType::kF32 ? 1e-5 : 1e-3)
            << kv_type_name(type) << " " << window << " " << only_decodes;
      }
}

// What attention of many rows may lose: docs/kernels.md.
double prompt_limit(const PromptCase& c) {
  if (c.type == KvType::kQ8) return 4e-4;
  return c.type == KvType::kF16 && c.precision == Precision::kInt8 ? 2e-4 : 1e-5;
}

std::string name_of(const PromptCase& c) {
  return fmt::format("{}, {}/{} heads of {}, window {}, softcap {}, {} stretches, pages of {}, precision {}", kv_type_name(c.type), c.heads,
                     c.kv_heads, c.dim, c.window, c.softcap, c.stretches.size(), c.page, static_cast<int>(c.precision));
}

using Stretches = std::vector<std::pair<int64_t, int64_t>>;
const Stretches kOnePrompt = {{0, 200}}, kWithPast = {{75, 150}}, kSeveral = {{0, 37}, {21, 1}, {130, 70}, {0, 16}, {40, 15}, {64, 64}};

TEST_F(CudaBackend, PromptAttentionIsTheOraclesInEveryShape) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8})
    for (const Precision precision : {Precision::kFloat, Precision::kInt8})
      for (const auto& [heads, kv_heads, dim] : {std::tuple<int64_t, int64_t, int64_t>{2, 2, 32},
                                                 {4, 2, 64},
                                                 {8, 2, 80},
                                                 {7, 1, 64},
                                                 {14, 2, 96},
                                                 {8, 1, 128},
                                                 {4, 1, 256},
                                                 {4, 2, 48},
                                                 {3, 1, 160},
                                                 {2, 1, 36}})
        for (const Stretches& stretches : {kOnePrompt, kWithPast, kSeveral}) {
          const PromptCase c{
              .type = type, .heads = heads, .kv_heads = kv_heads, .dim = dim, .stretches = stretches, .precision = precision};
          EXPECT_LT(relative(prompt_attention(*cuda_, c), prompt_attention(*ref_, c)), prompt_limit(c)) << name_of(c);
        }
}

TEST_F(CudaBackend, PromptAttentionHasWindowsAndSoftcaps) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8})
    for (const int64_t dim : {64, 128, 256})
      for (const int64_t window : {0, 1, 20, 100})
        for (const float softcap : {0.0f, 3.0f})
          for (const int64_t page : {8, 32, 128}) {
            const PromptCase c{.type = type,
                               .heads = 4,
                               .kv_heads = 2,
                               .dim = dim,
                               .window = window,
                               .softcap = softcap,
                               .stretches = kSeveral,
                               .page = page};
            EXPECT_LT(relative(prompt_attention(*cuda_, c), prompt_attention(*ref_, c)), prompt_limit(c)) << name_of(c);
          }
}

// More stretches than one launch takes, and more thread blocks of rows than multiprocessors.
TEST_F(CudaBackend, PromptAttentionOfManyStretches) {
  PromptCase c{.heads = 4, .kv_heads = 2, .dim = 64};
  for (int64_t i = 0; i < 150; ++i) c.stretches.emplace_back(i * 5 % 40, 16 + i * 7 % 20);
  EXPECT_LT(relative(prompt_attention(*cuda_, c), prompt_attention(*ref_, c)), prompt_limit(c));
  c = {.heads = 32, .kv_heads = 8, .dim = 128, .stretches = {{100, 700}}};
  EXPECT_LT(relative(prompt_attention(*cuda_, c), prompt_attention(*ref_, c)), prompt_limit(c));
}

TEST_F(CudaBackend, PromptAttentionRepeatsToTheBit) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    const PromptCase c{.type = type, .heads = 8, .kv_heads = 2, .dim = 128, .stretches = kSeveral};
    const std::vector<float> first = prompt_attention(*cuda_, c);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(prompt_attention(*cuda_, c), first) << name_of(c);
  }
}

TEST_F(CudaBackend, ElementwiseOperationsAreTheOracles) {
  const auto gate = gaussian(5 * 70, 11), up = gaussian(5 * 70, 12), weight = gaussian(70, 13);
  const auto run = [&](Backend& backend) {
    Floats a(backend, gate), b(backend, up), w(backend, weight), out(backend, gate);
    std::vector<float> all;
    const auto keep = [&] {
      const auto values = out.values();
      all.insert(all.end(), values.begin(), values.end());
    };
    for (const GateKind kind : {GateKind::kSilu, GateKind::kGeluTanh, GateKind::kGelu}) {
      backend.gated({.kind = kind, .gate = a.data(), .up = b.data(), .output = out.data(), .tokens = 5, .width = 70, .stride = 70});
      keep();
    }
    backend.norm({.input = a.data(), .weight = w.data(), .output = out.data(), .count = 5, .width = 70, .epsilon = 1e-5f, .offset = 1});
    keep();
    backend.add(out.data(), a.data(), 5 * 70);
    backend.softcap(out.data(), 5 * 70, 1.5f);
    keep();
    const std::vector<int32_t> rows = {3, 0, 4};
    const Memory index = backend.allocate(rows.size() * sizeof(int32_t)).value();
    backend.upload(index.as<int32_t>(), rows.data(), rows.size() * sizeof(int32_t));
    backend.zero(out.data(), 5 * 70);
    backend.gather({.input = a.data(), .row = index.as<int32_t>(), .output = out.data(), .count = 3, .width = 70});
    backend.scatter_add({.input = b.data(), .row = index.as<int32_t>(), .weight = w.data(), .output = out.data(), .count = 3, .width = 70});
    keep();
    all.push_back(static_cast<float>(backend.argmax(a.data(), 5 * 70)));
    return all;
  };
  EXPECT_LT(relative(run(*cuda_), run(*ref_)), 1e-6);
}

// Within and across thread blocks, from addresses of vectors and others; again and again, since they leave their state as they find it.
TEST_F(CudaBackend, TheFirstOfTheLargestIsFound) {
  for (const int64_t count : {1, 3, 1000, 5003, 151936}) {
    auto values = gaussian(count + 1, 3);
    for (float& value : values) value = std::round(value * 8);  // many are equal
    if (count > 1000) values[17] = NAN, values[18] = -INFINITY;
    Floats got(*cuda_, values);
    for (const int64_t first : {0, 1, 0}) {
      const std::span own = std::span(values).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
      int64_t largest = 0;
      for (int64_t i = 1; i < count; ++i)
        if (own[static_cast<size_t>(i)] > own[static_cast<size_t>(largest)]) largest = i;
      EXPECT_EQ(cuda_->argmax(got.data() + first, count), largest) << count << " " << first;
    }
  }
}

// Ties go to the first; a vocabulary larger than a thread block's stride and one smaller.
TEST_F(CudaBackend, ScoresAreTheHosts) {
  for (const int64_t vocabulary : {50, 5003}) {
    const int64_t tokens = 6;
    auto logits = gaussian(tokens * vocabulary, 1), reference = gaussian(tokens * vocabulary, 2);
    logits[3] = logits[17] = 9.0f, reference[5] = reference[40] = 11.0f;
    const std::vector<int32_t> next = {0, 3, 49, 7, 7, 20};
    const auto run = [&](Backend& backend, bool has_reference) {
      Floats a(backend, logits), b(backend, reference);
      std::vector<TokenScore> scores(next.size());
      backend.score({.logits = a.data(),
                     .reference = has_reference ? b.data() : nullptr,
                     .next = next,
                     .score = scores.data(),
                     .vocabulary = vocabulary});
      return scores;
    };
    for (const bool has_reference : {true, false}) {
      const auto expected = run(*ref_, has_reference), found = run(*cuda_, has_reference);
      for (size_t i = 0; i < next.size(); ++i) {
        EXPECT_NEAR(found[i].loss, expected[i].loss, 1e-5);
        EXPECT_NEAR(found[i].reference_loss, expected[i].reference_loss, 1e-5);
        EXPECT_NEAR(found[i].divergence, expected[i].divergence, 1e-5 * expected[i].divergence);
        EXPECT_EQ(found[i].top, expected[i].top);
        EXPECT_EQ(found[i].reference_top, expected[i].reference_top);
      }
      EXPECT_EQ(found[0].top, 3);
    }
  }
}

TEST_F(CudaBackend, EmbeddingRowsAreTheOracles) {
  const std::vector<int32_t> tokens = {5, 0, 99, 5};
  for (const PackedTensor& table :
       {random_grid(100, 768, {6, 6, 4, 6}), random_grid(100, 68, {6, 2, 4, 6}), random_halves(DType::kF16, 100, 64)}) {
    const auto run = [&](Backend& backend) {
      Floats out(backend, std::vector<float>(tokens.size() * static_cast<size_t>(table.columns()), NAN));
      backend.embed({.table = &table, .tokens = tokens, .scale = 3.0f, .output = out.data()});
      return out.values();
    };
    EXPECT_LT(relative(run(*cuda_), run(*ref_)), 1e-6);
  }
}

// The counters of thread blocks that have come are as before after every launch, and sums do not depend on who comes first.
TEST_F(CudaBackend, ProductsRepeatToTheBit) {
  const PackedTensor tensor = random_grid(5000, 4608, std::vector<uint8_t>(157, 3));
  for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64}) {
    const auto first = multiply(*cuda_, tensor, tokens, Precision::kInt8);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(multiply(*cuda_, tensor, tokens, Precision::kInt8), first) << tokens;
  }
}

// A pass recorded once gives at every token and position what the operations give one by one, for one sequence and for several.
TEST_F(CudaBackend, RecordedPassesFollowTokensAndPositions) {
  const PackedTensor table = random_halves(DType::kF16, 1000, 64);
  const std::vector<float> inv_freq = {1.0f, 0.3f, 0.1f, 0.01f};
  const auto run = [&](Backend& backend, uint64_t recording, int32_t rows) {
    Floats out(backend, std::vector<float>(static_cast<size_t>(64 * rows)));
    std::vector<float> all;
    for (int32_t i = 0; i < 5; ++i) {
      std::vector<int32_t> tokens;
      std::vector<Stretch> stretches;
      for (int32_t row = 0; row < rows; ++row) {
        tokens.push_back(10 * i + row);
        stretches.push_back({.tokens = 1, .first_position = 7 * i + 3 * row});
      }
      backend.pass({.tokens = tokens, .stretches = stretches, .recording = recording}, [&] {
        backend.embed({.table = &table, .tokens = tokens, .output = out.data()});
        backend.rotary({.values = out.data(), .stretches = stretches, .heads = 8, .head_dim = 8, .stride = 64, .inv_freq = inv_freq});
      });
      const auto values = out.values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  for (const int32_t rows : {1, 3, 200})
    EXPECT_LT(relative(run(*cuda_, static_cast<uint64_t>(rows), rows), run(*ref_, 0, rows)), 1e-6) << rows;
}

// More recordings than are kept.
TEST_F(CudaBackend, RecordingsUsedLongestAgoAreMadeAgain) {
  const PackedTensor table = random_halves(DType::kF16, 1000, 64);
  Floats out(*cuda_, std::vector<float>(64));
  for (int round = 0; round < 3; ++round)
    for (int32_t i = 0; i < 300; ++i) {
      const Stretch stretch{.tokens = 1};
      cuda_->pass({.tokens = {&i, 1}, .stretches = {&stretch, 1}, .recording = static_cast<uint64_t>(i % 150 + 1)}, [&] {
        cuda_->embed({.table = &table, .tokens = {&i, 1}, .output = out.data()});
      });
      Floats expected(*ref_, std::vector<float>(64));
      ref_->embed({.table = &table, .tokens = {&i, 1}, .output = expected.data()});
      EXPECT_EQ(out.values(), expected.values()) << i;
    }
}

// Rows of the first tokens have the same bits in products of any number of them.
TEST_F(CudaBackend, InvariantProductsDoNotDependOnTheOtherTokens) {
  const PackedTensor cases[] = {
      random_grid(100, 172, {3, 4, 2, 5}),  random_grid(100, 9216, {3, 3, 3, 3}), random_grid(5000, 768, std::vector<uint8_t>(157, 6)),
      random_halves(DType::kF16, 100, 320), random_halves(DType::kBF16, 70, 96),  plain(100, 17)};
  for (const PackedTensor& tensor : cases) {
    const int64_t rows = tensor.rows();
    const auto all = multiply(*cuda_, tensor, 37, Precision::kInvariant);
    for (const int64_t tokens : {1, 2, 3, 4, 5, 8, 9, 16, 31, 33})
      EXPECT_EQ(multiply(*cuda_, tensor, tokens, Precision::kInvariant), rows_of(all, 0, tokens, rows)) << rows << " " << tokens;
    EXPECT_LT(relative(all, multiply(*ref_, tensor, 37, Precision::kFloat)), 1e-4) << rows;
  }
}

TEST_F(CudaBackend, InvariantAttentionDoesNotDependOnTheOtherRows) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8})
    for (const int64_t window : {0, 9})
      for (const bool only_decodes : {false, true}) {
        PagedAttention all(*cuda_, type, window, only_decodes, Precision::kInvariant);
        EXPECT_EQ(all.together(), all.one_by_one()) << kv_type_name(type) << " " << window << " " << only_decodes;
      }
}

// Ranks of rows as the host finds them, or no ranks where too many values are equal.
TEST_F(CudaBackend, RanksAreTheOracles) {
  struct Found {
    std::vector<RankState> states;
    std::vector<Ranked> ranked;
  };
  const auto run = [](Backend& backend, const std::vector<float>& values, int64_t width, int64_t count) {
    Floats in(backend, values);
    Found found{std::vector<RankState>(values.size() / static_cast<size_t>(width)), {}};
    found.ranked.resize(found.states.size() * static_cast<size_t>(count));
    backend.rank({.values = in.data(), .width = width, .count = count, .states = found.states, .ranked = found.ranked.data()});
    return found;
  };
  for (const int64_t width : {1, 7, 50, 1000, 1024, 5003, 131072})
    for (const int64_t count : {1, 9, 48, 512})
      for (const float steps : {1e6f, 16.0f}) {
        if (count > width) continue;
        auto values = gaussian(5 * width, 4);
        for (float& value : values) value = std::round(value * steps) / steps;
        values[0] = -0.0f;
        if (width > 10) values[3] = -INFINITY;
        if (width > 10) values[static_cast<size_t>(2 * width + 8)] = NAN, values[static_cast<size_t>(3 * width + 9)] = INFINITY;
        const Found got = run(*cuda_, values, width, count), expected = run(*ref_, values, width, count);
        for (size_t t = 0; t < 5; ++t) {
          // Many equal values are too many where the few largest are asked for of a long row.
          if (got.states[t] == RankState::kUnknown && steps == 16.0f && width > 2048) continue;
          ASSERT_EQ(got.states[t], expected.states[t]) << width << " " << count << " " << t;
          if (got.states[t] != RankState::kRanked) continue;
          for (size_t i = t * static_cast<size_t>(count); i < (t + 1) * static_cast<size_t>(count); ++i) {
            ASSERT_EQ(got.ranked[i].index, expected.ranked[i].index) << width << " " << count << " " << i;
            ASSERT_EQ(got.ranked[i].value, expected.ranked[i].value) << width << " " << count << " " << i;
          }
        }
      }
  EXPECT_EQ(run(*cuda_, std::vector<float>(5000, 1.0f), 5000, 40).states[0], RankState::kUnknown);
}

}  // namespace
}  // namespace tq
