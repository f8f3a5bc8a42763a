#include <unistd.h>
#include <csignal>

#include <chrono>

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace tq::cli {
namespace {

std::atomic<bool> g_interrupted = false, g_terminated = false;  // a signal handler can reach nothing else

void on_signal(int signal) {
  if (signal == SIGTERM) g_terminated = true;
  if (g_interrupted.exchange(true)) _exit(static_cast<int>(ErrorCode::kInterrupted));
}

// A page of a mapped file that cannot be read: the file became shorter, or its disk failed. Nothing can be continued.
void on_unreadable_page(int) {
  constexpr std::string_view kMessage =
      "tq: a file became unreadable while it was in use: it was cut short, or its disk failed; copy it again\n";
  if (write(STDERR_FILENO, kMessage.data(), kMessage.size()) < 0) _exit(static_cast<int>(ErrorCode::kFailed));
  _exit(static_cast<int>(ErrorCode::kBadInput));
}

// A bar that is redrawn on a terminal; one line per finished step elsewhere. All on standard error.
class TerminalListener final : public Listener {
 public:
  TerminalListener() : is_terminal_(isatty(STDERR_FILENO) != 0) {}
  ~TerminalListener() override { clear(); }

  void note(std::string_view message) override { line(message); }
  void warn(std::string_view message) override { line(fmt::format("warning: {}", message)); }
  void progress(std::string_view step, int64_t done, int64_t total) override {
    const auto now = std::chrono::steady_clock::now();
    if (step != step_) step_ = step, start_ = now, first_ = done - 1;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    if (is_terminal_) {
      draw(step, done, total, seconds);
    } else if (done == total) {
      fmt::print(stderr, "{}: {} of {}\n", step, done, total);
    }
    if (done == total) clear(), step_.clear();
  }

 private:
  void line(std::string_view message) {
    clear();
    fmt::print(stderr, "{}\n", message);
  }
  void draw(std::string_view step, int64_t done, int64_t total, double seconds) {
    constexpr int kWidth = 30;
    const int filled = static_cast<int>(kWidth * done / std::max<int64_t>(1, total));
    const double rate = seconds > 0 ? static_cast<double>(done - first_ - 1) / seconds : 0;
    const std::string left = rate > 0 ? fmt::format(", {:.0f} s left", static_cast<double>(total - done) / rate) : "";
    fmt::print(stderr, "\r\033[K{} [{}{}] {}/{}{}", step, std::string(static_cast<size_t>(filled), '#'),
               std::string(static_cast<size_t>(kWidth - filled), '.'), done, total, left);
    std::fflush(stderr);
    is_drawn_ = true;
  }
  void clear() {
    if (is_drawn_) fmt::print(stderr, "\r\033[K");
    is_drawn_ = false;
  }
  bool is_terminal_, is_drawn_ = false;
  std::string step_;
  std::chrono::steady_clock::time_point start_;
  int64_t first_ = 0;
};

}  // namespace

const std::atomic<bool>& interrupted() { return g_interrupted; }
bool terminated() { return g_terminated; }
void forget_interrupt() { g_interrupted = g_terminated.load(); }

void watch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGBUS, on_unreadable_page);
  signal(SIGXFSZ, SIG_IGN);  // a file over the user's limit is an error of write(), like a full disk
}

void add_compute_flags(CLI::App& app, ComputeFlags& flags) {
  app.add_option("-t,--threads", flags.threads, "Threads; 0 uses every processor")->check(CLI::Range(0, 1024));
  app.add_option("--isa", flags.isa, "Force an instruction set: generic, avx2, avx512, avx512bf16, amx, neon");
  app.add_option("--backend", flags.backend, "cpu, cuda: an NVIDIA card, or ref: the slow scalar reference")
      ->check(CLI::IsMember({"cpu", "cuda", "ref"}));
  app.add_option("--gpus", flags.gpus, "With --backend cuda: cards that run the model together")->check(CLI::Range(1, 1024));
  app.add_option("--split", flags.split, "With --gpus: tensor, each card has a part of every matrix, or layer, each has whole layers")
      ->check(CLI::IsMember({"tensor", "layer"}));
}

Result<std::unique_ptr<Session>> Session::open(const ComputeFlags& flags) {
  Isa isa = best_isa();
  if (!flags.isa.empty()) {
    const std::optional<Isa> named = isa_from_name(flags.isa);
    const std::vector<Isa> here = supported_isas();
    if (!named) return bad_usage("--isa {}: there is no such instruction set", flags.isa);
    if (std::find(here.begin(), here.end(), *named) == here.end()) return bad_usage("--isa {}: this processor lacks it", flags.isa);
    isa = *named;
  }
  if (flags.gpus > 1 && flags.backend != "cuda") return bad_usage("--gpus {} goes with --backend cuda", flags.gpus);
  if (flags.split != "tensor" && flags.gpus <= 1) return bad_usage("--split {} goes with --gpus 2 or more", flags.split);
  std::unique_ptr<Session> session(new Session);
  session->threads_ = std::make_unique<ThreadPool>(flags.threads);
  session->listener_ = std::make_unique<TerminalListener>();
  if (flags.backend == "cuda") {
    const SplitBy split = flags.split == "layer" ? SplitBy::kLayers : SplitBy::kRows;
    TQ_ASSIGN(session->backend_, make_cuda_backend(*session->threads_, {.gpus = flags.gpus, .split = split, .host_isa = isa}));
  } else {
    session->backend_ = flags.backend == "ref" ? make_ref_backend(*session->threads_) : make_cpu_backend(*session->threads_, isa);
  }
  return session;
}

Session::~Session() = default;

Context Session::context() { return {.threads = *threads_, .listener = *listener_, .seed = 0, .stop = &g_interrupted}; }

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.3g} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.4g} MB", bytes / 1e6);
  return fmt::format("{:.0f} bytes", bytes);
}

}  // namespace tq::cli
