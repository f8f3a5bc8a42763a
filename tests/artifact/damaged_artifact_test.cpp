// Every damaged artifact is refused with one line that names the folder and the field.
#include <gmock/gmock.h>

#include <fstream>
#include <limits>

#include "artifact/editable_artifact.h"
#include "base/mapped_file.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

const std::string kQuery = "model.layers.0.self_attn.q_proj";  // [100, 64], rates 3 and 4

class DamagedArtifact : public ::testing::Test {
 protected:
  TemporaryFolder folder;
  EditableArtifact artifact{"llama-tied-3.25"};

  template <typename T>
  void expect_error(const T& result, const std::vector<std::string>& mentions) {
    ASSERT_FALSE(result.has_value());
    const std::string& message = result.error().message;
    EXPECT_EQ(result.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_THAT(message, HasSubstr(folder.path()));
    for (const std::string& text : mentions) EXPECT_THAT(message, HasSubstr(text));
  }
  void expect_refused(const std::vector<std::string>& mentions) {
    artifact.save(folder.path());
    expect_error(read_artifact(folder.path()), mentions);
  }
  // One edit on a fresh copy.
  template <typename Edit>
  void expect_refused_after(Edit edit, const std::vector<std::string>& mentions) {
    const EditableArtifact kept = artifact;
    edit(artifact);
    expect_refused(mentions);
    artifact = kept;
  }
  std::string shard() const { return folder.path() + "/model.safetensors"; }
  void overwrite(const std::string& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }
};

TEST_F(DamagedArtifact, IsAcceptedWhenItIsNot) {
  artifact.save(folder.path());
  const auto model = read_artifact(folder.path());
  EXPECT_TRUE(model.has_value()) << model.error().message;
  EXPECT_TRUE(verify_artifact(folder.path()).has_value());
}

TEST_F(DamagedArtifact, CutOffAnywhere) {
  artifact.save(folder.path());
  const auto size = std::filesystem::file_size(shard());
  for (const uintmax_t kept : {size - 1, size / 2, uintmax_t{1000}, uintmax_t{7}, uintmax_t{0}}) {
    std::filesystem::resize_file(shard(), kept);
    expect_error(read_artifact(folder.path()), {"model.safetensors"});
  }
}

TEST_F(DamagedArtifact, WithoutAFile) {
  artifact.save(folder.path());
  std::filesystem::remove(shard());
  expect_error(read_artifact(folder.path()), {"model.safetensors"});
  std::filesystem::remove(folder.path() + "/config.json");
  expect_error(read_artifact(folder.path()), {"config.json"});
}

TEST_F(DamagedArtifact, WithoutAShard) {
  artifact.save(folder.path(), 20000);
  std::filesystem::remove(folder.path() + "/model-00002-of-00004.safetensors");
  expect_error(read_artifact(folder.path()), {"model-00002-of-00004.safetensors"});
}

TEST_F(DamagedArtifact, WithOverlappingTensors) {
  artifact.save(folder.path());
  std::string text = read_text_file(shard(), 1 << 20).value();
  const size_t at = text.find("[3072,4096]");
  ASSERT_NE(at, std::string::npos);
  overwrite(shard(), text.replace(at, 11, "[3071,4095]"));
  expect_error(read_artifact(folder.path()), {"model.safetensors", "k_proj.bits", "offsets"});
}

TEST_F(DamagedArtifact, WithoutATensor) {
  for (const std::string& name :
       {kQuery + ".row_scale", kQuery + ".rates", std::string("model.layers.0.self_attn.input.sign"), std::string("lm_head.sign")})
    expect_refused_after([&](EditableArtifact& a) { a.erase(name); }, {name, "missing"});
  for (const std::string& name : {kQuery, std::string("model.embed_tokens")})
    expect_refused_after([&](EditableArtifact& a) { a.erase(name + ".bits"); }, {name + ".weight", "missing"});
  expect_refused_after([](EditableArtifact& a) { a.erase("model.norm.weight"); }, {"model.norm.weight", "missing"});
  expect_refused_after([](EditableArtifact& a) { a.erase("taps.3.9"); }, {kQuery.substr(0, 14), "3 bits", "no tap table"});
}

TEST_F(DamagedArtifact, WithAPartOfAnotherSize) {
  for (const auto& [name, step] :
       {std::pair{kQuery + ".bits", 64}, {kQuery + ".bits", 1}, {kQuery + ".row_scale", 1}, {kQuery + ".rates", 1}})
    for (const int sign : {-1, 1})
      expect_refused_after([&, part = name, by = sign * step](EditableArtifact& a) { a.at(part).resize(a.at(part).info.shape[0] + by); },
                           {kQuery, name.substr(kQuery.size() + 1)});
  expect_refused_after([](EditableArtifact& a) { a.at("lm_head.sign").resize(9); }, {"model.embed_tokens.weight", "sign"});
  expect_refused_after([](EditableArtifact& a) { a.at("taps.4.10").resize(9); }, {"taps.4.10"});
}

TEST_F(DamagedArtifact, WithAPartOfAnotherShapeOrType) {
  for (const char* part : {".bits", ".row_scale", ".rates"}) {
    expect_refused_after([&](EditableArtifact& a) { a.at(kQuery + part).info.shape.push_back(1); }, {kQuery + part, "one dimension"});
    expect_refused_after(
        [&](EditableArtifact& a) {
          auto& array = a.at(kQuery + part);
          array.info.dtype = array.info.dtype == DType::kU8 ? DType::kI8 : DType::kBF16;
        },
        {kQuery, part + 1, "expected"});
  }
  expect_refused_after([](EditableArtifact& a) { a.at("model.norm.weight").info.shape = {8, 8}; }, {"model.norm.weight", "[8, 8]"});
  expect_refused_after([](EditableArtifact& a) { a.at("model.norm.weight").info.dtype = DType::kI16; }, {"model.norm.weight", "I16"});
}

TEST_F(DamagedArtifact, WithRatesOutside1To8) {
  for (const uint8_t rate : {0, 9, 255})
    expect_refused_after([&](EditableArtifact& a) { a.at(kQuery + ".rates").set<uint8_t>(3, rate); },
                         {kQuery + ".rates", "range 3", fmt::format("{} bits", rate)});
}

TEST_F(DamagedArtifact, WithAPrecisionThatThereIsNot) {
  const std::string name = kQuery + ".activation_bits";
  for (const uint8_t bits : {0, 9, 255})
    expect_refused_after([&](EditableArtifact& a) { a.add(name, DType::kU8, {1}).set<uint8_t>(0, bits); },
                         {kQuery, fmt::format("activation_bits is {}", bits)});
  expect_refused_after([&](EditableArtifact& a) { a.add(name, DType::kU8, {2}); }, {kQuery, "activation_bits"});
  expect_refused_after([&](EditableArtifact& a) { a.add(name, DType::kF16, {1}); }, {kQuery, "activation_bits"});
  expect_refused_after([&](EditableArtifact& a) { a.add(name, DType::kU8, {1, 1}); }, {name, "one dimension"});
}

TEST_F(DamagedArtifact, WithScalesOrTapsThatAreNotFinite) {
  for (const uint16_t scale : {0x7c00, 0x7e00, 0xffff})
    expect_refused_after([&](EditableArtifact& a) { a.at(kQuery + ".row_scale").set<uint16_t>(99, scale); },
                         {kQuery, "scale of row 99", "not finite"});
  expect_refused_after([](EditableArtifact& a) { a.at("taps.4.10").set<float>(2, std::numeric_limits<float>::quiet_NaN()); },
                       {"taps.4.10", "not finite"});
}

TEST_F(DamagedArtifact, WithTapsThatMakeNoSense) {
  expect_refused_after([](EditableArtifact& a) { a.add("taps.3.12", DType::kF32, {12}); }, {"two tap tables", "rate 3"});
  for (const char* name : {"taps.9.12", "taps.5.4", "taps.5.25", "taps.5", "taps.x.9", "taps.5.-9"})
    expect_refused_after([&](EditableArtifact& a) { a.add(name, DType::kF32, {9}); }, {name});
}

TEST_F(DamagedArtifact, WithALinearTwiceOrTooMany) {
  expect_refused_after([](EditableArtifact& a) { a.add(kQuery + ".weight", DType::kF16, {100, 64}); }, {kQuery, "twice"});
  expect_refused_after([](EditableArtifact& a) { a.add("model.layers.2.self_attn.q_proj.bits", DType::kU8, {64}); },
                       {"model.layers.2.self_attn.q_proj.bits", "no such linear"});
}

TEST_F(DamagedArtifact, WithScalesAtAnOddAddress) {
  auto& extra = artifact.add("extra", DType::kU8, {1});
  std::rotate(artifact.arrays.begin(), artifact.arrays.end() - 1, artifact.arrays.end());
  EXPECT_EQ(extra.info.dtype, artifact.arrays[1].info.dtype);
  artifact.save_unordered(folder.path());
  expect_error(read_artifact(folder.path()), {"odd place"});
}

TEST_F(DamagedArtifact, WithAConfigurationOfAnotherModel) {
  artifact.config["intermediate_size"] = 173;
  expect_refused({"gate_proj"});
  artifact.config["num_attention_heads"] = "five";
  expect_refused({"config.json", "num_attention_heads"});
  artifact.config["architectures"] = {"MambaForCausalLM"};
  expect_refused({"config.json", "MambaForCausalLM"});
}

TEST_F(DamagedArtifact, OfAnUnknownFormat) {
  for (const Json& version : {Json(4), Json(0), Json(-1), Json("1"), Json(1.5), Json(nullptr), Json(uint64_t{1} << 63)}) {
    artifact.config["quantization_config"]["format"] = version;
    expect_refused({"config.json", "format"});
  }
}

TEST_F(DamagedArtifact, OfAFormatThatDoesNotHaveWhatIsInIt) {
  artifact = EditableArtifact("llama-quip-tuned-2", 2);
  artifact.save(folder.path());
  EXPECT_TRUE(read_artifact(folder.path()).has_value());
  artifact.config["quantization_config"]["format"] = 1;
  expect_refused({"row_scale", "format 2"});
  artifact = EditableArtifact("llama-mixed-2", 3);
  artifact.save(folder.path());
  EXPECT_TRUE(read_artifact(folder.path()).has_value());
  artifact.config["quantization_config"]["format"] = 2;
  expect_refused({".rates", "one bit", "format 3"});
}

TEST_F(DamagedArtifact, WithAHostileQuantizationConfig) {
  const Json kept = artifact.config["quantization_config"];
  for (const Json& value : {Json(128), Json("256"), Json(nullptr), Json::array({256})}) {
    artifact.config["quantization_config"]["hadamard_block"] = value;
    expect_refused({"config.json", "hadamard_block"});
  }
  for (const Json& value :
       {Json(nullptr), Json::array(), Json("turboquant"), Json{{"quant_method", "gptq"}}, Json{{"quant_method", {1}}}}) {
    artifact.config["quantization_config"] = value;
    expect_refused({"not a TurboQuant artifact"});
  }
  artifact.save(folder.path());
  for (const std::string& text : {std::string(100000, '['), std::string("[]"), std::string("7"), std::string(),
                                  std::string(R"({"quantization_config": {"quant_method": "turboquant", "format": 1, "format": 1}})")}) {
    overwrite(folder.path() + "/config.json", text);
    expect_error(read_artifact(folder.path()), {});
  }
}

TEST_F(DamagedArtifact, IsFoundByItsHashes) {
  artifact.save(folder.path());
  std::string text = read_text_file(shard(), 1 << 20).value();
  text.back() ^= 1;
  overwrite(shard(), text);
  EXPECT_TRUE(read_artifact(folder.path()).has_value());
  expect_error(verify_artifact(folder.path()), {"model.safetensors", "not what was written"});
}

TEST_F(DamagedArtifact, WithARecordThatSaysNothing) {
  artifact.save(folder.path());
  const std::string record = folder.path() + "/turboquant.json";
  const auto expect_record = [&](const char* text, const char* mention) {
    overwrite(record, text);
    expect_error(verify_artifact(folder.path()), {mention});
  };
  expect_record("{}", "no list of files");
  expect_record(R"({"files": []})", "no list of files");
  expect_record(R"({"files": {}})", "no hash of model.safetensors");
  expect_record(R"({"files": {"model.safetensors": 7}})", "model.safetensors");
  expect_record(R"({"files": {"model.safetensors": "", "../config.json": ""}})", "model.safetensors");
  expect_record(R"({"files": {"../config.json": "", "model.safetensors": ""}})", "../config.json");
  expect_record("[", "not valid JSON");
  std::filesystem::remove(record);
  expect_error(verify_artifact(folder.path()), {"turboquant.json"});
}

}  // namespace
}  // namespace tq
