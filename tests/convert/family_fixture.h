// The tiny models of tests/data/families: their files written anew from the seeded weights, and their logits through a backend.
#pragma once

#include <bit>
#include <cmath>
#include <filesystem>
#include <map>
#include <stdexcept>

#include <gtest/gtest.h>

#include "artifact/writer.h"
#include "base/float16.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "base/rng.h"
#include "convert/import.h"
#include "graph/network.h"

namespace tq::families_test {

struct Weight {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

struct Fixture {
  std::string name;
  Json json;
  std::vector<Weight> weights;
  std::vector<int32_t> tokens, positions;
  std::vector<float> logits;  // [positions, vocabulary]
};

inline const std::vector<std::string>& names() {
  static const std::vector<std::string> kNames = {"llama2", "llama3", "llama_bias", "smollm2", "mistral",    "qwen2",    "qwen2_window",
                                                  "qwen3",  "gemma3", "phi3",       "mixtral", "phi3_short", "qwen3_moe"};
  return kNames;
}

// value() of scripts/oracles/family_models.py: a signed byte times a power of two.
inline std::vector<float> seeded_values(const std::string& name, const Shape& shape, double norm_base) {
  uint64_t seed = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : name) seed = (seed ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  std::vector<float> out(static_cast<size_t>(element_count(shape)));
  const int width = std::bit_width(static_cast<uint64_t>(shape.back()));
  for (size_t i = 0; i < out.size(); ++i) {
    const int k = static_cast<int>(splitmix64(seed + i) >> 56) - 128;
    if (name.find("norm") != std::string::npos) {
      out[i] = static_cast<float>(norm_base + (k >> 2) / 128.0);
    } else if (name.ends_with(".bias")) {
      out[i] = static_cast<float>(k) / 256.0f;
    } else {
      out[i] = std::ldexp(static_cast<float>(k), name.find("embed_tokens") != std::string::npos ? -6 : -(6 + width / 2));
    }
  }
  return out;
}

// What was read of a file; a test without it fails with the file's name.
template <typename T>
T read(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

inline Fixture load_fixture(const std::string& name) {
  const std::string stem = std::string(TQ_TEST_DATA) + "/families/" + name;
  Fixture out{.name = name, .json = read(read_json_file(stem + ".json")), .weights = {}, .tokens = {}, .positions = {}, .logits = {}};
  for (const Json& entry : out.json["tensors"]) {
    Weight weight{entry[0], entry[1].get<Shape>(), {}};
    weight.values = seeded_values(weight.name, weight.shape, out.json["norm_base"]);
    out.weights.push_back(std::move(weight));
  }
  out.tokens = out.json["tokens"].get<std::vector<int32_t>>();
  out.positions = out.json["positions"].get<std::vector<int32_t>>();
  const std::string bytes = read(read_text_file(stem + ".f32"));
  out.logits.resize(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), bytes.size(), reinterpret_cast<char*>(out.logits.data()));
  return out;
}

// The same with so many rows of gate and up, and columns of down, as E8P needs a multiple of 8.
inline Fixture narrowed(Fixture fixture, int64_t width) {
  for (Weight& weight : fixture.weights) {
    const bool is_down = weight.name.ends_with("down_proj.weight");
    if (!is_down && weight.name.find(".mlp.gate_proj.") == std::string::npos && weight.name.find(".mlp.up_proj.") == std::string::npos)
      continue;
    Shape& shape = weight.shape;
    const int64_t stored = shape.size() > 1 ? shape[1] : 1;
    const int64_t rows = is_down ? shape[0] : width, columns = is_down ? width : stored;
    std::vector<float> values;
    for (int64_t r = 0; r < rows; ++r) {
      const auto row = weight.values.begin() + r * stored;
      values.insert(values.end(), row, row + columns);
    }
    weight.values = std::move(values);
    shape[0] = rows;
    if (shape.size() > 1) shape[1] = columns;
  }
  fixture.json["config"]["intermediate_size"] = width;
  return fixture;
}

// A fresh directory, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tq-families-XXXXXX").string();
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void write_hf(const std::vector<Weight>& weights, const Json& config, DType dtype, uint64_t shard_bytes, const std::string& path) {
  std::filesystem::create_directories(path);
  std::vector<PendingArray> arrays;
  for (const Weight& weight : weights) {
    const std::span<const float> values(weight.values);
    if (dtype == DType::kF32) {
      arrays.push_back({{weight.name, dtype, weight.shape}, [values](const auto& sink) { return sink(std::as_bytes(values)); }});
    } else {
      arrays.push_back({{weight.name, dtype, weight.shape}, [values, dtype](const auto& sink) {
                          std::vector<uint16_t> halves;
                          for (const float x : values) halves.push_back(dtype == DType::kBF16 ? float_to_bf16(x) : float_to_f16(x));
                          return sink(std::as_bytes(std::span<const uint16_t>(halves)));
                        }});
    }
  }
  ASSERT_TRUE(write_shards(path, plan_shards(std::move(arrays), shard_bytes)));
  ASSERT_TRUE(write_file(path + "/config.json", config.dump()));
}

// Logits at the fixture's positions. step: how many tokens go through the model at once.
inline std::vector<float> run(const Model& model, const Fixture& fixture, Backend& backend, int64_t step) {
  if (model.spec.layers.empty()) return {};
  auto network = Network::create(model, backend);
  if (!network) {
    ADD_FAILURE() << network.error().message;
    return {};
  }
  const auto count = static_cast<int64_t>(fixture.tokens.size());
  const int64_t vocabulary = model.spec.vocabulary;
  auto cache = KvCache::create(backend, model.spec, KvType::kF32, count);
  std::vector<float> logits(static_cast<size_t>(count * vocabulary));
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t here = std::min(step, count - begin);
    const float* states =
        network->forward({.tokens = std::span(fixture.tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(here)),
                          .first_position = begin,
                          .sequence_length = count,
                          .cache = &*cache,
                          .precision = Precision::kFloat});
    network->head(states, here, logits.data() + begin * vocabulary, Precision::kFloat);
  }
  std::vector<float> out;
  for (const int32_t position : fixture.positions)
    out.insert(out.end(), logits.begin() + position * vocabulary, logits.begin() + (position + 1) * vocabulary);
  return out;
}

// The largest difference, relative to the largest expected value.
inline double error(const std::vector<float>& got, const std::vector<float>& expected) {
  if (got.size() != expected.size()) return 1e9;
  double difference = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return 1e9;
    difference = std::max(difference, std::fabs(static_cast<double>(got[i]) - expected[i]));
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
  }
  return difference / largest;
}

}  // namespace tq::families_test
