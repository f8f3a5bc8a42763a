#include "eval/tasks/sandbox.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>

#include "eval/tasks/task.h"

namespace tq {
namespace {

SandboxResult run(const std::string& program, double seconds = 10) {
  const auto result = run_python(program, {.seconds = seconds});
  EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().message);
  return result ? *result : SandboxResult{};
}

TEST(Sandbox, PassesWhatEndsWithoutAnError) {
  EXPECT_TRUE(run("assert 1 + 1 == 2").passed);
  EXPECT_FALSE(run("assert 1 + 1 == 3").passed);
  EXPECT_FALSE(run("this is no program").passed);
  EXPECT_FALSE(run("import os; os._exit(3)").passed);
}

TEST(Sandbox, NoExitStatusMeansAnythingButFailure) {
  const bool isolated = run("pass").isolated;
  for (int status = 1; status < 256; status += status < 119 || status > 128 ? 25 : 1) {
    const SandboxResult result = run("import os; os._exit(" + std::to_string(status) + ")");
    EXPECT_FALSE(result.passed) << status;
    EXPECT_EQ(result.isolated, isolated) << status;
  }
}

TEST(Sandbox, EndsWhatNeverEnds) {
  const auto start = std::chrono::steady_clock::now();
  const SandboxResult result = run("while True: pass", 0.3);
  EXPECT_FALSE(result.passed);
  EXPECT_TRUE(result.timed_out);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Sandbox, LimitsMemoryAndFiles) {
  EXPECT_FALSE(run("x = bytearray(3 << 30)").passed);
  EXPECT_FALSE(run("f = open('big', 'wb')\nf.write(bytes(32 << 20))\nf.flush()").passed);
  EXPECT_TRUE(run("open('small', 'w').write('a')").passed);
}

TEST(Sandbox, LeavesNoProcessAndNoFile) {
  const std::string mark = testing::TempDir() + "tq-sandbox-mark", late = mark + "-late";
  std::filesystem::remove(late);
  // A child that would outlive its parent.
  run("import os, time\nopen('" + mark + "', 'w').write(os.getcwd())\nif os.fork() == 0:\n  time.sleep(0.5)\n  open('" + late + "', 'w')");
  std::ifstream file(mark);
  std::string folder;
  std::getline(file, folder);
  ASSERT_FALSE(folder.empty());
  EXPECT_FALSE(std::filesystem::exists(folder));
  std::this_thread::sleep_for(std::chrono::milliseconds(800));
  EXPECT_FALSE(std::filesystem::exists(late));
  std::filesystem::remove(mark);
}

TEST(Sandbox, EndsInTimeWhatLeavesItsGroup) {
  const std::string begun = testing::TempDir() + "tq-sandbox-begun", late = begun + "-late";
  std::filesystem::remove(begun), std::filesystem::remove(late);
  // Where it is the leader of its group already it cannot leave it.
  const std::string leave = "import os, time\ntry: os.setsid()\nexcept OSError: pass\n";
  const SandboxResult result = run(leave + "open('" + begun + "', 'w')\ntime.sleep(2)\nopen('" + late + "', 'w')", 1.5);
  EXPECT_TRUE(result.timed_out);
  ASSERT_TRUE(std::filesystem::exists(begun));
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  EXPECT_FALSE(std::filesystem::exists(late));
  std::filesystem::remove(begun);
}

TEST(Sandbox, HasNoNetworkWhereTheSystemAllowsIt) {
  if (!run("pass").isolated) GTEST_SKIP() << "no name spaces here";
  EXPECT_TRUE(run("import socket\nnames = [name for _, name in socket.if_nameindex()]\nassert 'eth0' not in names, names").passed);
  EXPECT_FALSE(run("import socket\nsocket.create_connection(('127.0.0.1', 1), 1)").passed);
}

TEST(CheckProgram, RunsThePromptTheAnswerAndTheTests) {
  Item item;
  item.context = "def add(a, b):\n";
  item.answer = "def check(candidate):\n    assert candidate(2, 3) == 5\n";
  item.name = "add";
  EXPECT_EQ(check_program(item, "    return a + b\n").value(), 1.0);
  EXPECT_EQ(check_program(item, "    return a - b\n").value(), 0.0);
}

}  // namespace
}  // namespace tq
