#include "artifact/carried_files.h"

#include <gmock/gmock.h>

#include "artifact/editable_artifact.h"
#include "base/mapped_file.h"
#include "token/tokenizer.h"

namespace tq {
namespace {

std::string template_of(const Json& tokenizer_config) {
  const TemporaryFolder folder;
  EXPECT_TRUE(write_file(folder.path() + "/tokenizer_config.json", tokenizer_config.dump()));
  Model model;
  const Status read = read_carried_files(folder.path(), model);
  EXPECT_TRUE(read.has_value()) << read.error().message;
  return model.chat_template;
}

TEST(ChatTemplate, IsTheStringOrTheOneNamedDefault) {
  EXPECT_EQ(template_of({{"chat_template", "x"}}), "x");
  const Json other = {{"name", "tool_use"}, {"template", "x"}}, wanted = {{"name", "default"}, {"template", "y"}};
  EXPECT_EQ(template_of({{"chat_template", Json::array({other, wanted})}}), "y");
  EXPECT_EQ(template_of({{"chat_template", Json::array({other})}}), "");
}

TEST(ChatTemplate, EntriesOfOtherTypesAreNotTheDefault) {
  const Json wanted = {{"name", "default"}, {"template", "y"}};
  for (const char* entry : {R"({"name": null, "template": "x"})", R"({"name": 5, "template": "x"})", R"({"name": ["default"]})",
                            R"({"name": "default", "template": null})", R"({"template": "x"})", R"("default")", "5", "null", "[]"}) {
    EXPECT_EQ(template_of({{"chat_template", Json::array({Json::parse(entry)})}}), "") << entry;
    EXPECT_EQ(template_of({{"chat_template", Json::array({Json::parse(entry), wanted})}}), "y") << entry;
  }
  for (const char* config : {"[]", "5", "null", R"({"chat_template": {"default": "x"}})", R"({"chat_template": null})"})
    EXPECT_EQ(template_of(Json::parse(config)), "") << config;
}

// A directory with SentencePiece's model and these files; a model with rows for two more tokens than it has pieces.
Result<Model> with_pieces(int64_t& pieces, const std::vector<std::pair<std::string, Json>>& files) {
  const std::string proto = read_text_file(TQ_TEST_DATA "/tokenizers/spm-bpe/tokenizer.model").value();
  pieces = Tokenizer::from_sentencepiece(std::as_bytes(std::span(proto)), Json::object(), "pieces").value().size();
  const TemporaryFolder folder;
  TQ_TRY(write_file(folder.path() + "/tokenizer.model", proto));
  for (const auto& [name, json] : files) TQ_TRY(write_file(folder.path() + "/" + name, json.dump()));
  Model model;
  model.spec.vocabulary = pieces + 2;
  TQ_TRY(read_carried_files(folder.path(), model));
  return model;
}

TEST(CarriedFiles, TokensAddedToATokenizerModelAreItsTokens) {
  int64_t n = 0;
  ASSERT_TRUE(with_pieces(n, {}).has_value());
  const Json added = {{"<call>", n + 1}, {"<|im_end|>", n}}, map = {{"eos_token", {{"content", "<|im_end|>"}}}};
  const auto model =
      with_pieces(n, {{"added_tokens.json", added}, {"special_tokens_map.json", map}, {"tokenizer_config.json", {{"eos_token", "</s>"}}}});
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Tokenizer& tokenizer = *model->tokenizer;
  const auto first = static_cast<TokenId>(n);
  EXPECT_EQ(tokenizer.size(), n + 2);
  EXPECT_EQ(tokenizer.eos(), first) << "the older file counts where there is no added_tokens_decoder";
  EXPECT_TRUE(tokenizer.is_special(first));
  EXPECT_FALSE(tokenizer.is_special(first + 1));
  EXPECT_EQ(tokenizer.encode("<|im_end|><call>", true, false), (std::vector<TokenId>{first, first + 1}));
}

TEST(CarriedFiles, TheConfigurationsTokensCountMoreThanTheMapOfSpecialOnes) {
  int64_t n = 0;
  ASSERT_TRUE(with_pieces(n, {}).has_value());
  const Json listed = {{std::to_string(n), {{"content", "<end>"}, {"special", true}}}};
  const auto model = with_pieces(n, {{"tokenizer_config.json", {{"added_tokens_decoder", listed}, {"eos_token", "<end>"}}},
                                     {"special_tokens_map.json", {{"eos_token", "</s>"}, {"pad_token", "<end>"}}},
                                     {"added_tokens.json", {{"<end>", n}, {"<more>", n + 1}}}});
  ASSERT_TRUE(model.has_value()) << model.error().message;
  EXPECT_EQ(model->tokenizer->eos(), static_cast<TokenId>(n));
  EXPECT_EQ(model->tokenizer->find("<more>"), static_cast<TokenId>(n + 1));
}

TEST(CarriedFiles, AddedTokensThatContradictEachOtherAreRefused) {
  int64_t n = 0;
  ASSERT_TRUE(with_pieces(n, {}).has_value());
  const auto error_of = [&](const Json& config, const Json& added) {
    const auto model = with_pieces(n, {{"tokenizer_config.json", config}, {"added_tokens.json", added}});
    return model ? std::string("none") : model.error().message;
  };
  const Json listed = {{"added_tokens_decoder", {{std::to_string(n), {{"content", "<a>"}}}}}};
  EXPECT_THAT(error_of(listed, {{"<b>", n}}), testing::HasSubstr("'<a>' and '<b>' have the same id"));
  EXPECT_THAT(error_of(listed, {{"<a>", n + 1}}), testing::HasSubstr(fmt::format("'<a>' has the ids {} and {}", n, n + 1)));
  EXPECT_THAT(error_of(Json::object(), {{"<a>", n}, {"<b>", n}}), testing::HasSubstr("'<a>' and '<b>' have the same id"));
  EXPECT_THAT(error_of(Json::object(), {{"<a>", n + 9000}}), testing::HasSubstr(fmt::format("far beyond the {} tokens before it", n)));
  EXPECT_THAT(error_of(Json::object(), {{"<a>", "8"}}), testing::HasSubstr("the id of '<a>' makes no sense"));
  EXPECT_THAT(error_of(Json::object(), Json::array({1})), testing::HasSubstr("an object of tokens and their ids was expected"));
}

TEST(CarriedFiles, ThatCannotBeExaminedAreNoMissingOnes) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/tokenizer.json";
  Model model;
  EXPECT_TRUE(read_carried_files(folder.path(), model).has_value()) << "there is none";
  std::filesystem::create_symlink("tokenizer.json", path);
  const Status refused = read_carried_files(folder.path(), model);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(refused.error().message, testing::StartsWith(path + ": cannot be examined ("));
}

}  // namespace
}  // namespace tq
