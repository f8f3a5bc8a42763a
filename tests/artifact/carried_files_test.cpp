#include "artifact/carried_files.h"

#include <gmock/gmock.h>

#include "artifact/editable_artifact.h"

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
