// An artifact of any bytes is refused, or every tensor of it can be decoded.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "artifact/reader.h"
#include "base/check.h"

namespace {

using tq::DType;
using Bytes = std::vector<std::byte>;

struct Artifact {
  std::string config;
  Bytes weights;
};

// Returns whether it was accepted.
bool read(const Artifact& artifact) {
  auto config = tq::parse_json(artifact.config, "config.json");
  if (!config) return false;
  const auto archive = tq::safetensors::Archive::parse(artifact.weights, "fuzz");
  if (!archive) return false;
  const auto model = tq::artifact_model(std::move(*config), *archive, "fuzz");
  if (!model) {
    TQ_CHECK(!model.error().message.empty() && model.error().message.find('\n') == std::string::npos);
    return false;
  }
  for (const auto& [name, tensor] : model->tensors) {
    const auto values = tq::decode(tensor);
    TQ_CHECK(static_cast<int64_t>(values.size()) == tq::element_count(tensor.shape));
  }
  return true;
}

// A sound safetensors file, array after array.
class Weights {
 public:
  void add(const std::string& name, DType type, const tq::Shape& shape, std::byte fill) {
    const size_t begin = data_.size(), bytes = static_cast<size_t>(tq::element_count(shape)) * tq::dtype_size(type);
    data_.insert(data_.end(), bytes, fill);
    header_ += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", header_.empty() ? "{" : ",", name,
                           tq::dtype_name(type), tq::shape_text(shape), begin, data_.size());
  }
  void add_linear(const std::string& name, int64_t rows, int64_t columns) {
    add(name + ".bits", DType::kU8, {(columns + 3) / 4 * 64}, std::byte{0x5a});  // at most 128 plane rows
    add(name + ".row_scale", DType::kF16, {rows}, std::byte{0x2c});
  }
  Bytes file() const {
    std::string header = header_ + "}";
    header.append((64 - (8 + header.size()) % 64) % 64, ' ');
    const uint64_t length = header.size();
    Bytes out(8 + header.size());
    std::memcpy(out.data(), &length, 8);
    std::memcpy(out.data() + 8, header.data(), header.size());
    out.insert(out.end(), data_.begin(), data_.end());
    return out;
  }

 private:
  std::string header_;
  Bytes data_;
};

// One layer, hidden width 4, tied head.
Artifact sound_artifact() {
  const std::string layer = "model.layers.0.", attention = layer + "self_attn.", mlp = layer + "mlp.";
  Weights weights;
  weights.add("taps.3.9", DType::kF32, {9}, std::byte{0x3e});
  for (const char* norm : {"model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"})
    weights.add(std::string(norm) + ".weight", DType::kF32, {4}, std::byte{0x3f});
  weights.add_linear("model.embed_tokens", 6, 4);
  weights.add_linear(attention + "q_proj", 4, 4);
  weights.add_linear(attention + "k_proj", 2, 4);
  weights.add_linear(attention + "v_proj", 2, 4);
  weights.add_linear(attention + "o_proj", 4, 4);
  weights.add_linear(mlp + "gate_proj", 6, 4);
  weights.add_linear(mlp + "up_proj", 6, 4);
  weights.add_linear(mlp + "down_proj", 4, 6);
  // Arrays of odd sizes last, so that the scales lie at even places.
  for (const char* linear :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
    weights.add(layer + linear + ".rates", DType::kU8, {1}, std::byte{3});
  weights.add("model.embed_tokens.rates", DType::kU8, {1}, std::byte{3});
  for (const std::string& tap : {std::string("lm_head"), attention + "input", attention + "o_proj", mlp + "input", mlp + "down_proj"})
    weights.add(tap + ".sign", DType::kU8, {1}, std::byte{0x35});
  return {R"({"architectures":["LlamaForCausalLM"],"hidden_size":4,"intermediate_size":6,"num_hidden_layers":1,"num_attention_heads":2,)"
          R"("num_key_value_heads":1,"head_dim":2,"vocab_size":6,"tie_word_embeddings":true,)"
          R"("quantization_config":{"quant_method":"turboquant","format":1,"hadamard_block":256}})",
          weights.file()};
}

// Edits of 4 bytes: which text, place (2 bytes), new value.
Artifact edited(Artifact artifact, const uint8_t* data, size_t size) {
  for (; size >= 4; data += 4, size -= 4) {
    const size_t place = static_cast<size_t>(data[1]) | static_cast<size_t>(data[2]) << 8;
    if (data[0] & 1) artifact.config[place % artifact.config.size()] = static_cast<char>(data[3]);
    else artifact.weights[place % artifact.weights.size()] = std::byte{data[3]};
  }
  return artifact;
}

}  // namespace

// First byte even: edits of a sound artifact. Odd: length of config.json (2 bytes), config.json, the weight file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Artifact kSound = sound_artifact();
  if (size == 0) {
    TQ_CHECK(read(kSound));
    return 0;
  }
  if (data[0] % 2 == 0) return read(edited(kSound, data + 1, size - 1)), 0;
  if (size < 3) return 0;
  const size_t length = std::min<size_t>(static_cast<size_t>(data[1]) | static_cast<size_t>(data[2]) << 8, size - 3);
  const char* text = reinterpret_cast<const char*>(data + 3);
  const auto* weights = reinterpret_cast<const std::byte*>(data + 3 + length);
  read({std::string(text, length), Bytes(weights, weights + (size - 3 - length))});
  return 0;
}
