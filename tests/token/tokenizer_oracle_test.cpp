// Known ids: llama.cpp's published test strings. Cut vocabularies come with the tests (scripts/oracles/published_ids.py); with
// TQ_SHARED_DATA, a folder, GPT-2's whole vocabulary is used too.
#include <cstdlib>
#include <sstream>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "token/tokenizer.h"

namespace tq {
namespace {

// Ids that no test string needs stand for something that no text contains.
VocabularySpec cut_vocabulary(const Json& entry) {
  VocabularySpec spec;
  const bool is_bpe = entry.contains("merges");
  spec.model = is_bpe ? VocabularySpec::Model::kByteBpe : VocabularySpec::Model::kSpm;
  if (is_bpe) spec.pre = entry.at("pre").get<std::string>(), spec.merges = entry.at("merges").get<std::vector<std::string>>();
  size_t size = 0, next = 0;
  for (const auto& [token, id] : entry.at("tokens").items()) size = std::max(size, id.get<size_t>() + 1);
  for (size_t id = 0; id < size; ++id) spec.tokens.push_back(fmt::format("\x01{}\x01", id));
  if (!is_bpe) spec.scores.resize(size), spec.kinds.resize(size, TokenKind::kUnused), spec.add_space_prefix = true;
  for (const auto& [token, id] : entry.at("tokens").items()) {
    const auto at = id.get<size_t>();
    spec.tokens[at] = token;
    if (!is_bpe) {
      constexpr TokenKind kKinds[] = {TokenKind::kNormal,      TokenKind::kUnknown, TokenKind::kControl,
                                      TokenKind::kUserDefined, TokenKind::kUnused,  TokenKind::kByte};
      spec.scores[at] = entry.at("scores")[next].get<float>();
      spec.kinds[at] = kKinds[entry.at("kinds")[next].get<size_t>() - 1];
    }
    ++next;
  }
  return spec;
}

void expect_ids(const Tokenizer& tokenizer, const std::vector<std::string>& texts, const std::vector<std::vector<TokenId>>& ids) {
  const auto again = Tokenizer::from_json(tokenizer.to_tokenizer_json(), tokenizer.to_tokenizer_config(), "exported");
  ASSERT_TRUE(again.has_value()) << again.error().message;
  ASSERT_GE(texts.size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(texts[i], false, false), ids[i]) << texts[i];
    EXPECT_EQ(again->encode(texts[i], false, false), ids[i]) << "after export: " << texts[i];
    EXPECT_EQ(tokenizer.decode(ids[i], false), texts[i]);
  }
}

TEST(TokenizerOracle, GivesThePublishedIdsOfEveryVocabularyAndTheTextsBack) {
  const auto file = read_json_file(std::string(TQ_TEST_DATA) + "/tokenizers/published.json");
  ASSERT_TRUE(file.has_value()) << file.error().message;
  const auto texts = file->at("texts").get<std::vector<std::string>>();
  EXPECT_GE(texts.size(), 46u);
  for (const auto& [name, entry] : file->at("vocabularies").items()) {
    SCOPED_TRACE(name);
    const auto tokenizer = Tokenizer::from_vocabulary(cut_vocabulary(entry), name);
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    expect_ids(*tokenizer, texts, entry.at("ids").get<std::vector<std::vector<TokenId>>>());
  }
}

// The 256 letters that byte-level vocabularies spell bytes with.
std::vector<std::string> byte_letters() {
  std::vector<std::string> out;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_plain = (byte >= 33 && byte < 127) || (byte >= 161 && byte < 173) || byte >= 174;
    const int letter = is_plain ? byte : next++;
    if (letter < 128) out.emplace_back(1, static_cast<char>(letter));
    else out.push_back({static_cast<char>(0xc0 | letter >> 6), static_cast<char>(0x80 | (letter & 0x3f))});
  }
  return out;
}

// Each name that a GGUF file may give its pre-tokenizer has expressions that can be used, and they lose no byte.
TEST(PretokenizersOfGguf, AreAllUsable) {
  const std::string letters =
      "aZ\xce\x90\xe1\xbf\x93\xe2\x84\xaa\xe2\x84\xa6 1234 x'll \xe4\xb8\xad\xe6\x96\x87\n\n (!)";  // U+1FD3, U+212A, U+2126: not
                                                                                                    // normalized
  for (const char* name : {"",
                           "a.x-4.0",
                           "bailingmoe",
                           "bailingmoe2",
                           "bloom",
                           "chameleon",
                           "chatglm-bpe",
                           "codeshell",
                           "command-r",
                           "dbrx",
                           "deepseek-coder",
                           "deepseek-llm",
                           "deepseek-r1-qwen",
                           "deepseek-v3",
                           "default",
                           "exaone",
                           "exaone-moe",
                           "exaone4",
                           "f2llmv2",
                           "falcon",
                           "falcon-h1",
                           "falcon3",
                           "gigachat",
                           "glm4",
                           "gpt-2",
                           "gpt-4",
                           "gpt-4o",
                           "gpt3-finnish",
                           "granite-docling",
                           "grok-2",
                           "hunyuan",
                           "hunyuan-dense",
                           "jais",
                           "jais-2",
                           "jina-de",
                           "jina-es",
                           "jina-v1-en",
                           "jina-v2-code",
                           "jina-v2-de",
                           "jina-v2-es",
                           "jina-v5-nano",
                           "joyai-llm",
                           "kanana2",
                           "kimi-k2",
                           "kormo",
                           "lfm2",
                           "llada-moe",
                           "llama-bpe",
                           "llama-v3",
                           "llama3",
                           "llama4",
                           "megrez",
                           "mellum",
                           "midm-2.0",
                           "minerva-7b",
                           "minimax-m2",
                           "modern-bert",
                           "mpt",
                           "olmo",
                           "phi-2",
                           "pixtral",
                           "poro-chat",
                           "qwen2",
                           "qwen35",
                           "refact",
                           "roberta-bpe",
                           "seed-coder",
                           "smaug-bpe",
                           "smollm",
                           "solar-open",
                           "stablelm2",
                           "starcoder",
                           "superbpe",
                           "tekken",
                           "tiny_aya",
                           "trillion",
                           "viking",
                           "youtu"}) {
    VocabularySpec spec;
    spec.pre = name;
    spec.tokens = byte_letters();
    const auto tokenizer = Tokenizer::from_vocabulary(std::move(spec), name);
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(letters, false, false), false), letters) << name;
  }
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

TEST(TokenizerOracle, Gpt2sWholeVocabularyGivesThem) {
  const char* folder = std::getenv("TQ_SHARED_DATA");
  if (!folder) GTEST_SKIP() << "TQ_SHARED_DATA names no folder (wants tokenizer/gpt2)";
  const auto file = read_json_file(std::string(TQ_TEST_DATA) + "/tokenizers/published.json");
  const auto tokenizer = gpt2(std::string(folder) + "/tokenizer");
  ASSERT_TRUE(file.has_value() && tokenizer.has_value());
  expect_ids(*tokenizer, file->at("texts").get<std::vector<std::string>>(),
             file->at("vocabularies").at("gpt-2").at("ids").get<std::vector<std::vector<TokenId>>>());
}

}  // namespace
}  // namespace tq
