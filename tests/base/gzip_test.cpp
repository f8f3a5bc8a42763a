#include "base/gzip.h"

#include <gtest/gtest.h>

namespace tq {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// Python's gzip.compress of three lines: a block of fixed codes with matches.
constexpr std::string_view kPacked(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\xc9\x48\x55\x28\x2c\xcd\x4c\xce\x56\x48\x2a\xca\x2f\xcf\x53\x48\xcb\xaf\xd0\x51\x28\x01"
    "\x0a"
    "\xe6\x24\x56\x55\x2a\xa4\xe4\xa7\x43\x78\xc8\x4a\x80\x82\x5c\x25\x74\xd5\x06\x00\x02\x47\xda\xf8\xa5\x00\x00\x00",
    62);
const std::string kLine = "the quick brown fox, the lazy dog, the quick brown dog\n";

TEST(Gzip, ReadsWhatPythonPacked) {
  const auto text = gunzip(bytes_of(kPacked), "a.gz", 1000);
  ASSERT_TRUE(text.has_value()) << text.error().message;
  EXPECT_EQ(*text, kLine + kLine + kLine);
}

TEST(Gzip, EveryTruncationIsAnError) {
  for (size_t size = 0; size < kPacked.size(); ++size) EXPECT_FALSE(gunzip(bytes_of(kPacked.substr(0, size)), "a.gz", 1000)) << size;
}

TEST(Gzip, NoCorruptByteGivesAnotherText) {
  for (size_t at = 0; at < kPacked.size(); ++at) {
    std::string damaged(kPacked);
    damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
    const auto text = gunzip(bytes_of(damaged), "a.gz", 1000);
    if (text) EXPECT_EQ(*text, kLine + kLine + kLine) << at;
    else EXPECT_EQ(text.error().code, ErrorCode::kBadInput) << at;
  }
}

TEST(Gzip, StopsAtTheLimit) { EXPECT_FALSE(gunzip(bytes_of(kPacked), "a.gz", kLine.size())); }

}  // namespace
}  // namespace tq
