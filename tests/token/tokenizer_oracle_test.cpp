// Known ids: GPT-2's vocabulary with llama.cpp's published test strings, read from the folder in TQ_SHARED_DATA.
#include <cstdlib>
#include <sstream>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "token/tokenizer.h"

namespace tq {
namespace {

std::string shared_folder() {
  const char* path = std::getenv("TQ_SHARED_DATA");
  return path ? path : "";
}

std::vector<std::string> inputs(const std::string& text) {
  const std::string mark = "\n__ggml_vocab_test__\n";
  std::vector<std::string> out;
  for (size_t at = 0;;) {
    const size_t end = text.find(mark, at);
    out.push_back(text.substr(at, end == std::string::npos ? end : end - at));
    if (end == std::string::npos) return out;
    at = end + mark.size();
  }
}

std::vector<std::vector<TokenId>> expected(const std::string& text) {
  std::vector<std::vector<TokenId>> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    std::vector<TokenId>& ids = out.emplace_back();
    for (TokenId id; numbers >> id;) ids.push_back(id);
  }
  return out;
}

Result<Tokenizer> gpt2(const std::string& folder) {
  VocabularySpec spec;
  spec.pre = "gpt-2";
  TQ_ASSIGN(const Json vocabulary, read_json_file(folder + "/gpt2/vocab.json"));
  spec.tokens.resize(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items()) spec.tokens.at(id.get<size_t>()) = token;
  TQ_ASSIGN(const std::string merges, read_text_file(folder + "/gpt2/merges.txt"));
  std::istringstream lines(merges);
  for (std::string line; std::getline(lines, line);)
    if (!line.empty() && !line.starts_with("#version")) spec.merges.push_back(line);
  return Tokenizer::from_vocabulary(std::move(spec), "gpt2");
}

TEST(TokenizerOracle, Gpt2GivesThePublishedIdsAndTheTextBack) {
  const std::string folder = shared_folder();
  if (folder.empty()) GTEST_SKIP() << "TQ_SHARED_DATA names no folder (wants tokenizer/gpt2 and tokenizer/llamacpp-vocab)";
  const auto tokenizer = gpt2(folder + "/tokenizer");
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  const std::string stem = folder + "/tokenizer/llamacpp-vocab/ggml-vocab-gpt-2.gguf";
  const auto in = read_text_file(stem + ".inp"), out = read_text_file(stem + ".out");
  ASSERT_TRUE(in.has_value() && out.has_value());
  const auto texts = inputs(*in);
  const auto ids = expected(*out);
  ASSERT_GE(texts.size(), ids.size());
  const auto again = Tokenizer::from_json(tokenizer->to_tokenizer_json(), tokenizer->to_tokenizer_config(), "exported");
  ASSERT_TRUE(again.has_value()) << again.error().message;
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(tokenizer->encode(texts[i], false, false), ids[i]) << texts[i];
    EXPECT_EQ(again->encode(texts[i], false, false), ids[i]) << "after export: " << texts[i];
    EXPECT_EQ(tokenizer->decode(ids[i], false), texts[i]);
  }
}

}  // namespace
}  // namespace tq
