// Helpers of the io tests: files as bytes, and their mutilation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>

#include "base/mapped_file.h"

namespace tq::test {

namespace fs = std::filesystem;

inline std::string data_path(const std::string& name) { return std::string(TQ_TEST_DATA) + "/io/" + name; }

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto span = std::as_bytes(std::span(text.data(), text.size()));
  return {span.begin(), span.end()};
}

inline std::vector<std::byte> file_bytes(const std::string& path) {
  const auto text = read_text_file(path);
  EXPECT_TRUE(text.has_value()) << path;
  return text ? to_bytes(*text) : std::vector<std::byte>{};
}

// `value` as sizeof(T) little-endian bytes.
template <typename T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

// A folder of the running test's own, emptied before and removed after.
class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / (std::string("tq_io_") + test->test_suite_name() + "_" + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  fs::path folder_;
};

// Calls read with every prefix of the bytes, each in memory of just its size, so that sanitizers see any access behind it.
inline void every_truncation(const std::vector<std::byte>& bytes, const std::function<void(std::span<const std::byte>)>& read) {
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> prefix(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    read(prefix);
  }
}

// Calls read with every byte changed to each of some values.
inline void every_corruption(std::vector<std::byte> bytes, const std::function<void(std::span<const std::byte>)>& read) {
  for (std::byte& byte : bytes) {
    const std::byte whole = byte;
    for (const std::byte change : {std::byte{1}, std::byte{2}, std::byte{8}, std::byte{0x20}, std::byte{0x80}, std::byte{0xff}, whole}) {
      byte = whole ^ change;
      read(bytes);
    }
    byte = whole;
  }
}

}  // namespace tq::test
