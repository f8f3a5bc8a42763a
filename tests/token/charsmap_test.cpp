#include "token/charsmap.h"

#include <gtest/gtest.h>

namespace tq {
namespace {

TEST(Charsmap, WithoutRulesLeavesATextAsItIs) {
  const std::string none(4, '\0');  // a trie of no units
  for (const auto walk : {Charsmap::Walk::kSentencePiece, Charsmap::Walk::kHuggingFace}) {
    const auto map = Charsmap::parse(none, walk, "map");
    ASSERT_TRUE(map.has_value()) << map.error().message;
    EXPECT_EQ(map->apply("a ﬁ b"), "a ﬁ b");
  }
}

TEST(Charsmap, SizesThatContradictTheBytesAreRefused) {
  for (const std::string& blob : {std::string("\1\0", 2), std::string("\3\0\0\0abc", 7), std::string("\10\0\0\0abcd", 8)})
    EXPECT_FALSE(Charsmap::parse(blob, Charsmap::Walk::kSentencePiece, "map").has_value());
}

}  // namespace
}  // namespace tq
