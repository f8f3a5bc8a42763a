// tq: makes language models small and runs them.
#include <algorithm>
#include <filesystem>
#include <new>
#include <numeric>
#include <system_error>

#include <CLI/CLI.hpp>

#include "base/version.h"
#include "cli/build_id.h"
#include "cli/command.h"

namespace {

// Commands that the plan has and the program does not.
constexpr std::pair<const char*, const char*> kMissing[] = {{"pull", "Download a model by its hub name"},
                                                            {"serve", "Serve a model over HTTP"},
                                                            {"export", "Write GGUF, compressed-tensors or GPTQ"},
                                                            {"finetune", "Train adapters on a quantized model"},
                                                            {"push", "Upload an artifact"}};

// One line, whatever strings of a file it quotes.
int fail_with(const tq::Error& error) {
  std::string message = error.message;
  std::replace_if(
      message.begin(), message.end(), [](char c) { return (c >= 0 && c < ' ') || c == 0x7f; }, '?');
  fmt::print(stderr, "tq: {}\n", message);
  return static_cast<int>(error.code);
}

// Runs a command; what it printed must have arrived.
int run(const tq::cli::Command& command) {
  try {
    const tq::Status status = command.action();
    if (!status) return fail_with(status.error());
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  } catch (const std::filesystem::filesystem_error& error) {
    return fail_with({tq::ErrorCode::kFailed, error.what()});
  } catch (const std::system_error& error) {
    if (std::ferror(stdout) == 0 && error.code() == std::errc::resource_unavailable_try_again)
      return fail_with({tq::ErrorCode::kNoResource, "the system has no thread left for it; end other programs, or ask for fewer threads"});
    // else of printing
  } catch (const std::bad_alloc&) {
    return fail_with({tq::ErrorCode::kNoResource, "not enough memory; a smaller --ctx, --window or model needs less"});
  } catch (const std::exception& error) {  // of a library: no input should come so far
    return fail_with({tq::ErrorCode::kFailed, fmt::format("internal error: {}", error.what())});
  }
  return fail_with({tq::ErrorCode::kNoResource, "the results could not be written to standard output; is the disk full?"});
}

// Letters to insert, remove or replace until one word is the other.
size_t distance(std::string_view from, std::string_view to) {
  std::vector<size_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= from.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= to.size(); ++j) {
      const size_t replaced = diagonal + (from[i - 1] != to[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

// "X: there is no such command", with the one that was probably meant.
std::string no_such_command(const CLI::App& app, const std::string& word) {
  std::string nearest;
  size_t least = 3;
  for (const CLI::App* each : app.get_subcommands([](const CLI::App*) { return true; }))
    if (const size_t here = distance(word, each->get_name()); here < least) least = here, nearest = each->get_name();
  return fmt::format("{}: there is no such command{}", word, nearest.empty() ? "" : fmt::format(", did you mean '{}'?", nearest));
}

// One line for what CLI11 says; help and version are no errors.
int end_of_parsing(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);
  std::string command = "tq", message = error.what();
  const std::vector<std::string> unknown = app.remaining();
  if (app.get_subcommands().empty() && !unknown.empty()) message = no_such_command(app, unknown.front());
  for (const CLI::App* used : app.get_subcommands()) command += " " + used->get_name();
  std::replace(message.begin(), message.end(), '\n', ' ');
  return fail_with({tq::ErrorCode::kUsage, fmt::format("{}; {} --help tells more", message, command)});
}

}  // namespace

int main(int argc, char** argv) {
  using namespace tq;
  CLI::App app{"Makes language models 4-8 times smaller, and runs them.", "tq"};
  app.set_version_flag("--version", [] { return fmt::format("{}, build {}", program_name(), cli::build_id()); });
  app.require_subcommand(1);
  const cli::Command commands[] = {cli::add_quantize(app), cli::add_run(app),     cli::add_eval(app), cli::add_compare(app),
                                   cli::add_inspect(app),  cli::add_convert(app), cli::add_bench(app)};
  for (const auto& [name, help] : kMissing) {
    CLI::App* missing = app.add_subcommand(name, std::string(help) + " (not yet)");
    missing->allow_extras();
    missing->set_help_flag();  // it could only repeat that there is none
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return end_of_parsing(app, error);
  }
  for (const auto& [name, help] : kMissing)
    if (app.got_subcommand(name))
      return fail_with({ErrorCode::kUsage, fmt::format("{} does not exist yet; tq --help lists what does", name)});
  cli::watch_interrupts();
  for (const cli::Command& command : commands) {
    if (command.app->parsed()) return run(command);
  }
  return static_cast<int>(ErrorCode::kUsage);
}
