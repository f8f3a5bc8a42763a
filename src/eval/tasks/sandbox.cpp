#include "eval/tasks/sandbox.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/output_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

// What a child says through its pipe where no program ran. A program cannot say it: the pipe is closed when it begins.
enum class Failure : char { kNone = 0, kNoPython = 1, kNotIsolated = 2 };

class TemporaryFolder {
 public:
  static Result<TemporaryFolder> create() {
    std::error_code error;
    std::string pattern = (fs::temp_directory_path(error) / "tq-program-XXXXXX").string();
    if (error || !mkdtemp(pattern.data())) return fail(ErrorCode::kFailed, "{}: no temporary folder can be made there", pattern);
    return TemporaryFolder(pattern);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

std::string find_python() {
  const char* path = std::getenv("PATH");
  std::string rest = path ? path : "/usr/local/bin:/usr/bin:/bin";
  rest += ":";
  while (!rest.empty()) {
    const std::string candidate = rest.substr(0, rest.find(':')) + "/python3";
    rest.erase(0, rest.find(':') + 1);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

void limit(int what, uint64_t value) {
  const rlimit both{value, value};
  setrlimit(static_cast<__rlimit_resource>(what), &both);
}

// Both ends close where a program begins.
class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_, O_CLOEXEC | O_NONBLOCK) != 0) ends_[0] = ends_[1] = -1;
    // Behind the streams that the child replaces.
    for (int& end : ends_) {
      if (end < 0 || end > 2) continue;
      const int moved = fcntl(end, F_DUPFD_CLOEXEC, 3);
      close(std::exchange(end, moved));
    }
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    for (const int end : ends_)
      if (end >= 0) close(end);
  }
  bool is_open() const { return ends_[0] >= 0 && ends_[1] >= 0; }
  int writer() const { return ends_[1]; }
  Failure read_failure() const {
    char said = 0;
    return read(ends_[0], &said, 1) == 1 ? static_cast<Failure>(said) : Failure::kNone;
  }

 private:
  int ends_[2];
};

struct Child {
  const char* python;
  const char* folder;
  SandboxLimits limits;
  bool isolate;
  int pipe;
};

[[noreturn]] void give_up(const Child& child, Failure why) {
  const char said = static_cast<char>(why);
  (void)!write(child.pipe, &said, 1);
  _exit(1);
}

// A killed parent takes this process with it.
void end_with_parent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

// The caller becomes the child; what it was waits for that, and ends as it ends.
void go_on_in_a_child(const Child& child) {
  end_with_parent();
  const pid_t inner = fork();
  if (inner < 0) give_up(child, Failure::kNotIsolated);
  if (inner == 0) return;
  int status = 0;
  while (waitpid(inner, &status, 0) < 0 && errno == EINTR) {
  }
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

// Between fork and exec: system calls only, since other threads may have held locks.
[[noreturn]] void run_child(const Child& child) {
  setsid();
  const int null = open("/dev/null", O_RDWR);
  for (const int stream : {0, 1, 2}) dup2(null, stream);
  if (chdir(child.folder) != 0) give_up(child, Failure::kNoPython);
  limit(RLIMIT_CPU, static_cast<uint64_t>(child.limits.seconds) + 1);
  limit(RLIMIT_AS, child.limits.memory_bytes);
  limit(RLIMIT_FSIZE, child.limits.file_bytes);
  limit(RLIMIT_NOFILE, 64);
  limit(RLIMIT_CORE, 0);
  if (child.isolate) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC) != 0) give_up(child, Failure::kNotIsolated);
    go_on_in_a_child(child);  // the first process of the new name space: whatever is in it ends with it
    go_on_in_a_child(child);  // the program, so that the first process is not its own: that one cannot leave the group
  }
  end_with_parent();
  const char* arguments[] = {child.python, "-I", "-B", "program.py", nullptr};
  const char* environment[] = {"PATH=/usr/bin:/bin", "OMP_NUM_THREADS=1", nullptr};
  execve(child.python, const_cast<char* const*>(arguments), const_cast<char* const*>(environment));
  give_up(child, Failure::kNoPython);
}

struct Ending {
  int status = 0;
  bool timed_out = false;
};

// Waits until the process ends or its time is over; then the whole group is killed.
Ending wait_for(pid_t process, double seconds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  Ending ending;
  while (true) {
    const pid_t ended = waitpid(process, &ending.status, WNOHANG);
    if (ended == process || (ended < 0 && errno != EINTR)) break;
    if (std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      continue;
    }
    ending.timed_out = true;
    kill(-process, SIGKILL);
    while (waitpid(process, &ending.status, 0) < 0 && errno == EINTR) {
    }
    break;
  }
  kill(-process, SIGKILL);
  return ending;
}

}  // namespace

Result<SandboxResult> run_python(const std::string& program, const SandboxLimits& limits) {
  const std::string python = find_python();
  if (python.empty()) return fail(ErrorCode::kFailed, "programs are tested with python3, which is not there; install it");
  TQ_ASSIGN(const TemporaryFolder folder, TemporaryFolder::create());
  TQ_TRY(write_file(folder.path() + "/program.py", program));
  for (const bool isolate : {true, false}) {
    const Pipe pipe;
    if (!pipe.is_open()) return fail(ErrorCode::kNoResource, "no pipe can be opened to test a program: {}", std::strerror(errno));
    const Child child{python.c_str(), folder.path().c_str(), limits, isolate, pipe.writer()};
    const pid_t process = fork();
    if (process < 0) return fail(ErrorCode::kNoResource, "no process can be started to test a program: {}", std::strerror(errno));
    if (process == 0) run_child(child);
    const Ending ending = wait_for(process, limits.seconds);
    const Failure failure = pipe.read_failure();
    if (isolate && failure == Failure::kNotIsolated) continue;
    if (failure != Failure::kNone) return fail(ErrorCode::kFailed, "{} could not be started to test a program", python);
    return SandboxResult{.passed = !ending.timed_out && WIFEXITED(ending.status) && WEXITSTATUS(ending.status) == 0,
                         .timed_out = ending.timed_out,
                         .isolated = isolate};
  }
  __builtin_unreachable();
}

}  // namespace tq
