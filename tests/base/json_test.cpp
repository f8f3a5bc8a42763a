#include "base/json.h"

#include <gmock/gmock.h>

namespace tq {
namespace {

using ::testing::HasSubstr;

TEST(ParseJson, KeepsKeyOrder) {
  const auto json = parse_json(R"({"z": 1, "a": [true, null, 2.5, "é"]})", "test");
  ASSERT_TRUE(json.has_value()) << json.error().message;
  EXPECT_EQ(json->dump(), R"({"z":1,"a":[true,null,2.5,"é"]})");
}

TEST(ParseJson, RefusesDuplicateKeysAtAnyDepth) {
  const auto json = parse_json(R"({"a": {"b": 1, "b": 2}})", "config.json");
  ASSERT_FALSE(json.has_value());
  EXPECT_EQ(json.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(json.error().message, HasSubstr("config.json"));
}

TEST(ParseJson, RefusesDepthBeyondTheLimit) {
  EXPECT_TRUE(parse_json(std::string(10, '[') + std::string(10, ']'), "x", 10).has_value());
  EXPECT_FALSE(parse_json(std::string(11, '[') + std::string(11, ']'), "x", 10).has_value());
  EXPECT_FALSE(parse_json(std::string(1000000, '['), "x").has_value());
}

TEST(ParseJson, RefusesEveryTruncation) {
  const std::string text = R"({"a": [1, {"b": "c"}]})";
  for (size_t size = 0; size < text.size(); ++size) EXPECT_FALSE(parse_json(text.substr(0, size), "x").has_value()) << size;
}

TEST(JsonReader, ChecksTypesAndRanges) {
  const auto json = parse_json(R"({"n": 7, "f": 3.0, "h": 2.5, "s": "t", "null": null})", "x");
  ASSERT_TRUE(json.has_value());
  const JsonReader reader(*json, "config.json");
  EXPECT_EQ(*reader.integer("n", 0, 10), 7);
  EXPECT_EQ(*reader.integer("f", 0, 10), 3);
  EXPECT_FALSE(reader.integer("h", 0, 10).has_value());
  EXPECT_FALSE(reader.integer("n", 0, 6).has_value());
  EXPECT_FALSE(reader.integer("s", 0, 6).has_value());
  EXPECT_EQ(*reader.integer_or("null", 4, 0, 6), 4);
  const auto missing = reader.integer("absent", 0, 6);
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message, HasSubstr("absent"));
}

}  // namespace
}  // namespace tq
