#include "quantize/job_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <chrono>

#include "convert/family_fixture.h"
#include "kernels/backend.h"
#include "quantize/job.h"

namespace tq {
namespace {

using namespace families_test;
namespace fs = std::filesystem;

class JobFolders : public ::testing::Test {
 protected:
  void SetUp() override {
    fixture_ = load_fixture("llama2");
    write_hf(fixture_.weights, fixture_.json["config"], DType::kF32, 1 << 30, directory_ / "model");
    model_ = read(load_model(directory_ / "model"));
  }
  Result<JobFolder> open(bool resume, double bits = 4, uint64_t seed = 0, const std::string& maker = "test") {
    return open_at("out", resume, bits, seed, maker);
  }
  Result<JobFolder> open_at(const std::string& output, bool resume, double bits = 4, uint64_t seed = 0, const std::string& maker = "test") {
    QuantizeOptions options;
    options.bits = bits, options.seed = seed;
    return JobFolder::open(model_, *make_plan(model_, options), directory_ / output, resume, maker);
  }
  void write(const std::string& file, const std::string& text) { ASSERT_TRUE(write_file(directory_ / file, text).has_value()) << file; }
  // As a run leaves it that is killed while it publishes.
  void leave_complete() {
    ASSERT_TRUE(open(false).has_value());
    ASSERT_TRUE(write_file(directory_ / "out.partial/turboquant.json", "{}").has_value());
    fs::remove_all(directory_ / "out.partial/steps");
  }
  void expect_refused(const Result<JobFolder>& folder, const std::string& says, ErrorCode code = ErrorCode::kUsage) {
    ASSERT_FALSE(folder.has_value());
    EXPECT_EQ(folder.error().code, code);
    EXPECT_NE(folder.error().message.find(says), std::string::npos) << folder.error().message;
  }

  Fixture fixture_;
  TemporaryDirectory directory_;
  Model model_;
};

TEST_F(JobFolders, AreRefusedToOtherJobsEvenWhenTheyAreComplete) {
  leave_complete();
  expect_refused(open(true, 2.5), "other options");
  expect_refused(open(true, 4, 7), "other options");
  expect_refused(open(true, 4, 0, "another"), "begun by test, not another");
  EXPECT_TRUE(fs::exists(directory_ / "out.partial/turboquant.json"));
}

TEST_F(JobFolders, ThatAreCompleteArePublishedWithoutWhatSaysWhoseTheyWere) {
  leave_complete();
  auto folder = open(true);
  ASSERT_TRUE(folder.has_value());
  EXPECT_TRUE(folder->is_complete());
  ASSERT_TRUE(folder->publish(directory_ / "out").has_value());
  EXPECT_FALSE(fs::exists(directory_ / "out.partial"));
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory_ / "out")) names.push_back(entry.path().filename());
  EXPECT_EQ(names, std::vector<std::string>{"turboquant.json"});
}

// Killed after the steps were renamed, while they were removed.
TEST_F(JobFolders, WhoseStepsWereBeingRemovedAreComplete) {
  leave_complete();
  fs::create_directory(directory_ / "out.partial/steps-done");
  ASSERT_TRUE(write_file(directory_ / "out.partial/steps-done/layer-00000.safetensors", "").has_value());
  auto folder = open(true);
  ASSERT_TRUE(folder.has_value());
  EXPECT_TRUE(folder->is_complete());
  ASSERT_TRUE(folder->publish(directory_ / "out").has_value());
  EXPECT_FALSE(fs::exists(directory_ / "out/steps-done"));
}

TEST_F(JobFolders, PublishingLeavesNoSteps) {
  auto folder = open(false);
  ASSERT_TRUE(folder.has_value());
  ASSERT_TRUE(write_file(directory_ / "out.partial/turboquant.json", "{}").has_value());
  EXPECT_FALSE(folder->is_complete());
  ASSERT_TRUE(folder->publish(directory_ / "out").has_value());
  EXPECT_TRUE(fs::exists(directory_ / "out/turboquant.json"));
  EXPECT_FALSE(fs::exists(directory_ / "out/steps"));
  EXPECT_FALSE(fs::exists(directory_ / "out/steps-done"));
}

TEST_F(JobFolders, WithWorkThatDoNotSayWhoseItIsAreRefused) {
  leave_complete();
  fs::remove(directory_ / "out.partial/job");
  expect_refused(open(true), "does not say");
  fs::remove(directory_ / "out.partial/turboquant.json");
  fs::create_directory(directory_ / "out.partial/steps");
  ASSERT_TRUE(write_file(directory_ / "out.partial/steps/layer-00000.safetensors", "").has_value());
  expect_refused(open(true), "does not say");
  fs::remove(directory_ / "out.partial/steps/layer-00000.safetensors");
  EXPECT_TRUE(open(true).has_value());  // killed before it had begun
}

TEST_F(JobFolders, ThatAreSomebodyElsesAreRefusedAndStay) {
  fs::create_directory(directory_ / "out.partial");
  write("out.partial/notes", "dear");
  expect_refused(open(true), "does not say");
  expect_refused(open(false), "something else is there");
  EXPECT_EQ(*read_text_file(directory_ / "out.partial/notes"), "dear");
  EXPECT_FALSE(fs::exists(directory_ / "out.partial/job"));
  write("out.partial/job", "");  // killed before it said whose it is; what is beside it was there already
  expect_refused(open(true), "does not say");
  EXPECT_TRUE(fs::exists(directory_ / "out.partial/notes"));
}

TEST_F(JobFolders, LoseWithoutAStepWhatTheirJobMadeAndNoMore) {
  open(false)->remove_without_steps();
  EXPECT_FALSE(fs::exists(directory_ / "out.partial"));
  auto folder = open(false);
  ASSERT_TRUE(folder.has_value());
  write("out.partial/steps/layer-00000.safetensors", "");
  folder->remove_without_steps();
  EXPECT_TRUE(folder->has_step("layer-00000"));
  EXPECT_TRUE(fs::exists(directory_ / "out.partial/job"));
  fs::remove(directory_ / "out.partial/steps/layer-00000.safetensors");
  write("out.partial/notes", "dear");
  folder->remove_without_steps();
  EXPECT_EQ(*read_text_file(directory_ / "out.partial/notes"), "dear");
  EXPECT_FALSE(fs::exists(directory_ / "out.partial/job"));
}

TEST_F(JobFolders, InTheModelsDirectoryAreResumed) {
  const std::string before = source_facts(model_);
  ASSERT_TRUE(open_at("model/out", false).has_value());
  write("model/log", "of the run");
  model_ = read(load_model(directory_ / "model"));
  EXPECT_EQ(source_facts(model_), before);
  EXPECT_TRUE(open_at("model/out", true).has_value());
  const std::string config = directory_ / "model/config.json";
  fs::last_write_time(config, fs::last_write_time(config) + std::chrono::hours(1));
  expect_refused(open_at("model/out", true), "another source");
}

TEST_F(JobFolders, AreOfOneRunAtATime) {
  {
    const auto folder = open(false);
    ASSERT_TRUE(folder.has_value());
    expect_refused(open(true), "another process", ErrorCode::kFailed);
  }
  EXPECT_TRUE(open(true).has_value());
}

TEST_F(JobFolders, AreNotPublishedWithStepsThatCannotBeRemoved) {
  auto folder = open(false);
  ASSERT_TRUE(folder.has_value());
  ASSERT_TRUE(write_file(directory_ / "out.partial/steps/layer-00000.safetensors", "").has_value());
  const bool is_root = geteuid() == 0;  // who may remove anything
  ASSERT_EQ(chmod((directory_ / "out.partial/steps").c_str(), 0555), 0);
  if (is_root) ASSERT_EQ(seteuid(65534), 0);
  const Status published = folder->publish(directory_ / "out");
  if (is_root) ASSERT_EQ(seteuid(0), 0);
  for (const char* name : {"steps", "steps-done"}) chmod((directory_ / fmt::format("out.partial/{}", name)).c_str(), 0755);
  ASSERT_FALSE(published.has_value());
  EXPECT_NE(published.error().message.find("cannot be removed"), std::string::npos) << published.error().message;
  EXPECT_TRUE(fs::exists(directory_ / "out.partial/job"));
}

TEST_F(JobFolders, BelongToASplitSourceByAllOfItsParts) {
  const std::string first = directory_ / "a-00001-of-00002.gguf", second = directory_ / "a-00002-of-00002.gguf";
  ASSERT_TRUE(write_file(first, "1").has_value() && write_file(second, "2").has_value());
  model_.source = first, model_.source_parts = {first, second};
  const std::string before = source_facts(model_);
  ASSERT_TRUE(write_file(second, "other").has_value());
  EXPECT_NE(source_facts(model_), before);
}

TEST(JobMaker, NamesTheHostsInstructionSetWhateverTheBackend) {
  ThreadPool threads{1};
  const std::unique_ptr<Backend> backend = make_ref_backend(threads);
  EXPECT_NE(maker_of({*backend, "build"}).find(isa_name(backend->isa())), std::string::npos);
}

}  // namespace
}  // namespace tq
