#include "base/locked_file.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/mapped_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

class LockedFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) / ("tq_locked_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    path_ = (folder_ / "file").string();
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
  std::string path_;
};

TEST_F(LockedFiles, AreOfOneAtATime) {
  {
    auto file = LockedFile::create(path_);
    ASSERT_TRUE(file.has_value());
    for (const auto& error : {LockedFile::open(path_).error(), LockedFile::create(path_).error()}) {
      EXPECT_EQ(error.code, ErrorCode::kFailed);
      EXPECT_NE(error.message.find("another process"), std::string::npos) << error.message;
    }
    const LockedFile moved = std::move(*file);
    EXPECT_FALSE(LockedFile::open(path_).has_value());
  }
  EXPECT_TRUE(LockedFile::open(path_).value().has_value());
}

TEST_F(LockedFiles, SayWhatWasWrittenLast) {
  auto file = LockedFile::create(path_);
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ(file->text().value(), "");
  ASSERT_TRUE(file->write(std::string(5000, 'x')).has_value());
  EXPECT_EQ(file->text().value(), std::string(5000, 'x'));
  ASSERT_TRUE(file->write("short").has_value());
  EXPECT_EQ(file->text().value(), "short");
  EXPECT_EQ(read_text_file(path_).value(), "short");
}

TEST_F(LockedFiles, AreGoneOnceRemoved) {
  EXPECT_FALSE(LockedFile::open(path_).value().has_value());
  ASSERT_TRUE(LockedFile::create(path_).value().remove().has_value());
  EXPECT_FALSE(fs::exists(path_));
}

}  // namespace
}  // namespace tq
