// tq: makes language models small and runs them.
#include "cli/command.h"

namespace {

// Commands that the plan has and the program does not.
constexpr std::pair<const char*, const char*> kMissing[] = {{"pull", "Download a model by its hub name"},
                                                            {"serve", "Serve a model over HTTP"},
                                                            {"export", "Write GGUF, compressed-tensors or GPTQ"},
                                                            {"finetune", "Train adapters on a quantized model"},
                                                            {"push", "Upload an artifact"}};

int fail_with(const tq::Error& error) {
  fmt::print(stderr, "tq: {}\n", error.message);
  return static_cast<int>(error.code);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace tq;
  CLI::App app{"Makes language models 4-8 times smaller, and runs them.", "tq"};
  app.set_version_flag("--version", "tq 0.1.0");
  app.require_subcommand(1);
  const cli::Command commands[] = {cli::add_quantize(app), cli::add_run(app),     cli::add_eval(app),
                                   cli::add_inspect(app),  cli::add_convert(app), cli::add_bench(app)};
  for (const auto& [name, help] : kMissing) {
    CLI::App* missing = app.add_subcommand(name, std::string(help) + " (not yet)");
    missing->allow_extras();
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : static_cast<int>(ErrorCode::kUsage);
  }
  for (const auto& [name, help] : kMissing)
    if (app.got_subcommand(name))
      return fail_with({ErrorCode::kUsage, fmt::format("{} does not exist yet; tq --help lists what does", name)});
  cli::watch_interrupts();
  for (const cli::Command& command : commands) {
    if (!command.app->parsed()) continue;
    const Status status = command.action();
    return status ? 0 : fail_with(status.error());
  }
  return static_cast<int>(ErrorCode::kUsage);
}
