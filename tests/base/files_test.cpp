#include <filesystem>

#include <gmock/gmock.h>

#include "base/mapped_file.h"
#include "base/output_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("tq_files_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  fs::path folder_;
};

TEST_F(Files, NeedRoomThatIsThere) {
  EXPECT_TRUE(check_free_space(path("not/there/yet"), 1).has_value());
  EXPECT_TRUE(check_free_space("relative", 1).has_value());
  const Status huge = check_free_space(path("not/there/yet"), uint64_t{1} << 62);
  ASSERT_FALSE(huge.has_value());
  EXPECT_EQ(huge.error().code, ErrorCode::kNoResource);
  EXPECT_THAT(huge.error().message, testing::AllOf(testing::HasSubstr("not/there/yet"), testing::HasSubstr("4611686018.427 GB")));
}

TEST_F(Files, AppearOnlyWhenCommitted) {
  {
    auto file = OutputFile::create(path("a"));
    ASSERT_TRUE(file.has_value());
    ASSERT_TRUE(file->write("half").has_value());
    EXPECT_FALSE(fs::exists(path("a")));
  }
  EXPECT_TRUE(fs::is_empty(folder_));
  auto file = OutputFile::create(path("a"));
  ASSERT_TRUE(file.has_value());
  ASSERT_TRUE(file->write("whole").has_value());
  ASSERT_TRUE(file->commit().has_value());
  EXPECT_EQ(*read_text_file(path("a")), "whole");
}

TEST_F(Files, OfTheProgramsOwnReplaceWhatAKillLeft) {
  ASSERT_TRUE(write_file(path("other"), "another file").has_value());
  fs::create_symlink(path("other"), path("a.part"));
  ASSERT_TRUE(write_file(path("a"), "whole").has_value());
  EXPECT_EQ(*read_text_file(path("a")), "whole");
  EXPECT_FALSE(fs::is_symlink(path("a")));
  EXPECT_EQ(*read_text_file(path("other")), "another file");
  EXPECT_FALSE(fs::exists(fs::symlink_status(path("a.part"))));
}

TEST_F(Files, AmongOthersLeaveThemAlone) {
  for (const char* other : {"a.part", "a.part2"}) ASSERT_TRUE(write_file(path(other), other).has_value());
  auto first = OutputFile::create_among_others(path("a")), second = OutputFile::create_among_others(path("a"));
  ASSERT_TRUE(first.has_value() && second.has_value());
  ASSERT_TRUE(first->write("first").has_value() && second->write("second").has_value());
  ASSERT_TRUE(second->commit().has_value());
  EXPECT_EQ(*read_text_file(path("a")), "second");
  ASSERT_TRUE(first->commit().has_value());
  ASSERT_TRUE(write_file_among_others(path("b"), "text").has_value());
  EXPECT_EQ(*read_text_file(path("a")), "first");
  EXPECT_EQ(*read_text_file(path("b")), "text");
  for (const char* other : {"a.part", "a.part2"}) EXPECT_EQ(*read_text_file(path(other)), other);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 4);
}

TEST_F(Files, MapsWhatWasWritten) {
  ASSERT_TRUE(write_file(path("b"), "text").has_value());
  const auto mapped = MappedFile::open(path("b"));
  ASSERT_TRUE(mapped.has_value());
  EXPECT_EQ((*mapped)->bytes().size(), 4u);
}

TEST_F(Files, NamesTheMissingFile) {
  const auto mapped = MappedFile::open(path("missing"));
  ASSERT_FALSE(mapped.has_value());
  EXPECT_EQ(mapped.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(mapped.error().message, HasSubstr("missing"));
  EXPECT_FALSE(MappedFile::open(folder_.string()).has_value());
}

TEST_F(Files, RefusesTextAboveTheLimit) {
  ASSERT_TRUE(write_file(path("c"), "12345").has_value());
  EXPECT_TRUE(read_text_file(path("c"), 5).has_value());
  EXPECT_FALSE(read_text_file(path("c"), 4).has_value());
}

}  // namespace
}  // namespace tq
