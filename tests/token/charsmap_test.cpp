#include "token/charsmap.h"

#include <cstring>

#include <gtest/gtest.h>

namespace tq {
namespace {

std::string applied(const Charsmap& map, std::string_view text) {
  Rewriting out(false);
  map.apply(text, out);
  return out.text;
}

TEST(Charsmap, WithoutRulesLeavesATextAsItIs) {
  const std::string none(4, '\0');  // a trie of no units
  for (const auto walk : {Charsmap::Walk::kSentencePiece, Charsmap::Walk::kHuggingFace}) {
    const auto map = Charsmap::parse(none, walk, "map");
    ASSERT_TRUE(map.has_value()) << map.error().message;
    EXPECT_EQ(applied(*map, "a ﬁ b"), "a ﬁ b");
  }
}

TEST(Charsmap, SizesThatContradictTheBytesAreRefused) {
  for (const std::string& blob : {std::string("\1\0", 2), std::string("\3\0\0\0abc", 7), std::string("\10\0\0\0abcd", 8)})
    EXPECT_FALSE(Charsmap::parse(blob, Charsmap::Walk::kSentencePiece, "map").has_value());
}

TEST(Charsmap, ARuleThatCutsACharacterLeavesItsRestBroken) {
  std::vector<uint32_t> units(256);
  units[0xc3] = 0xc3 | 1u << 8 | 1u << 10;  // the byte c3 ends a rule; what it becomes stands in its neighbour: 0, the first replacement
  std::string blob(4 + 4 * units.size(), '\0');
  const auto size = static_cast<uint32_t>(4 * units.size());
  std::memcpy(blob.data(), &size, sizeof size);
  std::memcpy(blob.data() + 4, units.data(), size);
  blob += "x";
  const auto map = Charsmap::parse(blob, Charsmap::Walk::kSentencePiece, "map");
  ASSERT_TRUE(map.has_value()) << map.error().message;
  EXPECT_EQ(applied(*map, "aéb"),
            "ax\xef\xbf\xbd"
            "b");
}

}  // namespace
}  // namespace tq
