// llama.cpp's vocabulary files with their published strings and ids: ggml-vocab-NAME.gguf{,.inp,.out} of the folder TQ_VOCABULARIES, where
// there is one. What is cut from three of them always runs (tests/token/tokenizer_oracle_test.cpp).
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "convert/gguf_vocabulary.h"
#include "token/tokenizer.h"

namespace tq {
namespace {

std::vector<std::string> pieces(const std::string& text, const std::string& mark) {
  std::vector<std::string> out;
  for (size_t at = 0;;) {
    const size_t end = text.find(mark, at);
    out.push_back(text.substr(at, end == std::string::npos ? end : end - at));
    if (end == std::string::npos) return out;
    at = end + mark.size();
  }
}

std::vector<TokenId> numbers(const std::string& line) {
  std::istringstream stream(line);
  std::vector<TokenId> out;
  for (TokenId id; stream >> id;) out.push_back(id);
  return out;
}

void expect_published_ids(const std::string& path) {
  SCOPED_TRACE(path);
  const auto in = read_text_file(path + ".inp"), out = read_text_file(path + ".out");
  ASSERT_TRUE(in.has_value() && out.has_value());
  const auto file = gguf::File::open(path);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  Model model;
  const Status read = read_gguf_vocabulary(**file, model);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  const auto texts = pieces(*in, "\n__ggml_vocab_test__\n"), lines = pieces(*out, "\n");
  for (size_t i = 0; i < std::min(texts.size(), lines.size()); ++i)
    EXPECT_EQ(model.tokenizer->encode(texts[i], false, false), numbers(lines[i])) << texts[i];
}

template <typename T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
std::string text(const std::string& value) { return raw(static_cast<uint64_t>(value.size())) + value; }

// Its tokenizer.json can be written all the same.
TEST(GgufVocabularyFiles, MayHaveTokensAndTemplatesThatAreNoUtf8) {
  const std::vector<std::string> tokens = {"a", "b\xfe\xfe", "ab"};
  std::string bytes = "GGUF" + raw(uint32_t{3}) + raw(uint64_t{0}) + raw(uint64_t{4});
  for (const auto& [key, value] :
       {std::pair{"tokenizer.ggml.model", "gpt2"}, {"tokenizer.ggml.pre", "gpt-2"}, {"tokenizer.chat_template", "\xff"}})
    bytes += text(key) + raw(uint32_t{8}) + text(value);
  bytes += text("tokenizer.ggml.tokens") + raw(uint32_t{9}) + raw(uint32_t{8}) + raw(static_cast<uint64_t>(tokens.size()));
  for (const std::string& token : tokens) bytes += text(token);
  bytes.resize((bytes.size() + 31) / 32 * 32);
  const auto file = gguf::File::parse(std::as_bytes(std::span(bytes.data(), bytes.size())), "memory");
  ASSERT_TRUE(file.has_value()) << file.error().message;
  Model model;
  const Status read = read_gguf_vocabulary(**file, model);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(model.tokenizer->size(), 3);
  for (const CarriedFile& each : model.files) EXPECT_TRUE(parse_json(each.text, each.name).has_value()) << each.name;
}

TEST(GgufVocabularyFiles, GiveThePublishedIds) {
  const char* folder = std::getenv("TQ_VOCABULARIES");
  if (!folder) GTEST_SKIP() << "TQ_VOCABULARIES names no folder";
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".gguf" && std::filesystem::exists(entry.path().string() + ".inp"))
      expect_published_ids(entry.path().string());
}

}  // namespace
}  // namespace tq
