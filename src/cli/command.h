// What the commands share: the session (threads, messages, backend), and how they are registered.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "artifact/model.h"
#include "base/context.h"
#include "base/cpu.h"
#include "kernels/backend.h"

namespace CLI {
class App;
}

namespace tq::cli {

// Flags of every command that computes.
struct ComputeFlags {
  int threads = 0;  // 0: one per processor
  std::string isa;  // empty: the best
  std::string backend = "cpu";
  int gpus = 0;  // 0: one
  std::string split = "tensor";
};
void add_compute_flags(CLI::App& app, ComputeFlags& flags);

// Threads, terminal messages and backend of one command.
class Session {
 public:
  static Result<std::unique_ptr<Session>> open(const ComputeFlags& flags);
  ~Session();
  Context context();
  Backend& backend() { return *backend_; }
  ThreadPool& threads() { return *threads_; }

 private:
  Session() = default;
  std::unique_ptr<ThreadPool> threads_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Backend> backend_;
};

// Whether Ctrl-C has been pressed since the program began, or since it was last forgotten.
const std::atomic<bool>& interrupted();
bool terminated();        // by a request to terminate, which is an interrupt too
void forget_interrupt();  // after Ctrl-C stopped a part of the work only; a request to terminate is never forgotten
void watch_interrupts();

// "98.1 MB": decimal units, three digits.
std::string bytes_text(double bytes);

// A command's function returns its exit status through Result; the error is printed by main.
using Action = std::function<Status()>;
struct Command {
  CLI::App* app;
  Action action;
};
Command add_run(CLI::App& root);
Command add_quantize(CLI::App& root);
Command add_eval(CLI::App& root);
Command add_compare(CLI::App& root);
Command add_inspect(CLI::App& root);
Command add_convert(CLI::App& root);
Command add_bench(CLI::App& root);

}  // namespace tq::cli
