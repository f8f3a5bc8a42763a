#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "convert/export_hf.h"
#include "convert/import.h"

namespace tq::cli {
namespace {

struct Flags {
  std::string model, output, dtype = "bf16";
  ComputeFlags compute;
};

Result<DType> dtype_of(const std::string& name) {
  if (name == "bf16") return DType::kBF16;
  if (name == "f16") return DType::kF16;
  if (name == "f32") return DType::kF32;
  return bad_usage("--dtype {}: give bf16, f16 or f32", name);
}

Status act(const Flags& flags) {
  TQ_ASSIGN(const DType dtype, dtype_of(flags.dtype));
  TQ_ASSIGN(const Model model, load_model(flags.model));
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  TQ_TRY(export_hf(model, dtype, flags.output, session->context()));
  fmt::print("{}: written\n", flags.output);
  return {};
}

}  // namespace

Command add_convert(CLI::App& root) {
  CLI::App* app = root.add_subcommand("convert", "Write a plain Hugging Face directory");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Artifact, Hugging Face directory or GGUF file")->required();
  app->add_option("-o,--output", flags->output, "Directory to write")->required();
  app->add_option("--dtype", flags->dtype, "bf16, f16 or f32")->capture_default_str();
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
