// A GGUF file of any bytes is refused as a model, or can be decoded, tokenized with and declared.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/check.h"
#include "convert/gguf_vocabulary.h"
#include "convert/import.h"
#include "io/gguf.h"
#include "token/tokenizer.h"

namespace {

template <typename T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
std::string text(const std::string& value) { return raw(static_cast<uint64_t>(value.size())) + value; }

// Fields and tensors as they lie in the file, version 3.
class Writer {
 public:
  void add(const std::string& key, uint32_t value) { fields_ += text(key) + raw(uint32_t{4}) + raw(value), ++field_count_; }
  void add(const std::string& key, float value) { fields_ += text(key) + raw(uint32_t{6}) + raw(value), ++field_count_; }
  void add(const std::string& key, const std::string& value) { fields_ += text(key) + raw(uint32_t{8}) + text(value), ++field_count_; }
  void add(const std::string& key, const std::vector<std::string>& values) {
    fields_ += text(key) + raw(uint32_t{9}) + raw(uint32_t{8}) + raw(static_cast<uint64_t>(values.size()));
    for (const std::string& value : values) fields_ += text(value);
    ++field_count_;
  }
  void add_tensor(const std::string& name, const std::vector<uint64_t>& innermost_first) {
    infos_ += text(name) + raw(static_cast<uint32_t>(innermost_first.size()));
    uint64_t bytes = 4;
    for (const uint64_t dim : innermost_first) infos_ += raw(dim), bytes *= dim;
    infos_ += raw(uint32_t{0}) + raw(static_cast<uint64_t>(data_.size()));
    data_.append(bytes, '\x3c');
    data_.resize((data_.size() + 31) / 32 * 32);
    ++tensor_count_;
  }
  std::string file() const {
    std::string out = "GGUF" + raw(uint32_t{3}) + raw(tensor_count_) + raw(field_count_) + fields_ + infos_;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

 private:
  std::string fields_, infos_, data_;
  uint64_t field_count_ = 0, tensor_count_ = 0;
};

// Two layers of width 4; of a family whose metadata say the most, or of the plainest with a vocabulary.
std::string sound_file(const std::string& architecture, bool is_bpe) {
  Writer out;
  out.add("general.architecture", architecture);
  for (const auto& [key, value] : {std::pair<const char*, uint32_t>{"embedding_length", 4},
                                   {"block_count", 2},
                                   {"feed_forward_length", 6},
                                   {"attention.head_count", 2},
                                   {"attention.head_count_kv", 1},
                                   {"attention.key_length", 2},
                                   {"context_length", 32},
                                   {"attention.sliding_window", 8}})
    out.add(architecture + "." + key, value);
  out.add(architecture + ".rope.freq_base", 1e4f);
  out.add(architecture + ".rope.scaling.type", std::string("linear"));
  out.add(architecture + ".rope.scaling.factor", 2.0f);
  out.add("tokenizer.ggml.model", std::string(is_bpe ? "gpt2" : "llama"));
  out.add("tokenizer.ggml.pre", std::string("qwen2"));
  out.add("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "<s>", "<0x41>", "\xe2\x96\x81"});
  out.add("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
  out.add("tokenizer.ggml.bos_token_id", uint32_t{3});
  out.add_tensor("token_embd.weight", {4, 6});
  out.add_tensor("output_norm.weight", {4});
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    for (const char* norm : {"attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"})
      out.add_tensor(layer + norm + ".weight", {4});
    for (const char* norm : {"attn_q_norm", "attn_k_norm"}) out.add_tensor(layer + norm + ".weight", {2});
    out.add_tensor(layer + "attn_q.weight", {4, 4});
    out.add_tensor(layer + "attn_k.weight", {4, 2});
    out.add_tensor(layer + "attn_v.weight", {4, 2});
    out.add_tensor(layer + "attn_output.weight", {4, 4});
    out.add_tensor(layer + "ffn_gate.weight", {4, 6});
    out.add_tensor(layer + "ffn_up.weight", {4, 6});
    out.add_tensor(layer + "ffn_down.weight", {6, 4});
  }
  return out.file();
}

// Returns whether it was accepted.
bool read(const std::string& bytes) {
  const auto file = tq::gguf::File::parse(std::as_bytes(std::span(bytes.data(), bytes.size())), "fuzz");
  if (!file) return false;
  tq::Model alone;  // the vocabulary, whatever the model is
  if (tq::read_gguf_vocabulary(**file, alone) && alone.tokenizer) {
    const auto ids = alone.tokenizer->encode("ab <s> A", true, true);
    TQ_CHECK(std::all_of(ids.begin(), ids.end(), [&](tq::TokenId id) { return id >= 0 && id < alone.tokenizer->size(); }));
  }
  const auto model = tq::gguf_model(*file, "fuzz");
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

}  // namespace

// Which sound file (1 byte), then edits of 4 bytes: place (3 bytes), new value.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string kSound[] = {sound_file("gemma3", true), sound_file("llama", false), sound_file("qwen3", true)};
  if (size == 0) {
    for (const std::string& file : kSound) TQ_CHECK(read(file));
    return 0;
  }
  std::string bytes = kSound[data[0] % 3];
  for (++data, --size; size >= 4; data += 4, size -= 4) {
    const size_t place = static_cast<size_t>(data[0]) | static_cast<size_t>(data[1]) << 8 | static_cast<size_t>(data[2]) << 16;
    bytes[place % bytes.size()] = static_cast<char>(data[3]);
  }
  read(bytes);
  return 0;
}
