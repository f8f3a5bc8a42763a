#include "quantize/estimate.h"
#include "quantize/job.h"

#include <sys/statvfs.h>

#include <algorithm>

#include "cli/command.h"
#include "convert/import.h"

namespace tq::cli {
namespace {

struct Flags {
  std::string model, output, method = "turboquant", effort = "normal", embedding = "6", head = "6", gradients, act_order;
  std::vector<std::string> calibration;
  double bits = 0, damping = QuantizeOptions().damping;
  int passes = QuantizeOptions().passes;
  int64_t calibration_tokens = 0, group = QuantizeOptions().group;
  uint64_t seed = 0;
  bool dry_run = false, resume = false, json = false;
  ComputeFlags compute;
};

Result<int> table_bits(const std::string& text, const char* flag) {
  if (text == "original") return 0;
  if (text.size() == 1 && text[0] >= '2' && text[0] <= '8') return text[0] - '0';
  return bad_usage("{} {}: give 2 to 8, or 'original'", flag, text);
}

Result<QuantizeOptions> options_of(const Flags& flags) {
  QuantizeOptions options;
  options.bits = flags.bits;
  const std::optional<Effort> effort = effort_from_name(flags.effort);
  if (!effort) return bad_usage("--effort {}: give fast, normal or best", flags.effort);
  options.effort = *effort;
  const std::optional<Method> method = method_from_name(flags.method);
  if (!method) return bad_usage("--method {}: give turboquant, rtn, gptq, awq or quip", flags.method);
  options.method = *method;
  options.group = flags.group;
  if (!flags.act_order.empty()) options.act_order = flags.act_order == "on";
  options.damping = flags.damping;
  options.passes = flags.passes;
  TQ_ASSIGN(options.embedding_bits, table_bits(flags.embedding, "--embedding"));
  TQ_ASSIGN(options.head_bits, table_bits(flags.head, "--head"));
  if (!flags.gradients.empty()) options.gradients = flags.gradients == "on";
  options.calibration = flags.calibration;
  options.calibration_tokens = flags.calibration_tokens;
  options.seed = flags.seed;
  return options;
}

// What `du -b DIRECTORY` adds for the folder itself.
uint64_t folder_entry_bytes(const std::string& output) {
  std::string parent = output.substr(0, output.find_last_not_of('/') + 1);
  const size_t slash = parent.rfind('/');
  parent = slash == std::string::npos ? "." : slash == 0 ? "/" : parent.substr(0, slash);
  struct statvfs status {};
  return statvfs(parent.c_str(), &status) == 0 ? status.f_frsize : 4096;
}

void print_plan(const Model& model, const QuantizePlan& plan, const Flags& flags, Session& session) {
  const int threads = session.threads().size();
  const uint64_t bytes = planned_bytes(model, plan), entry = folder_entry_bytes(flags.output);
  const MeanBits bits = mean_bits(plan);
  const WeightCounts counts = count_weights(model.spec);
  const TimeEstimate time = estimate_time(model, plan, session.backend(), session.context());
  const uint64_t memory = planned_memory(model, plan, threads);
  if (flags.json) {
    fmt::print("{}\n", Json{{"bytes", bytes},
                            {"folder_entry_bytes", entry},
                            {"bits_linears", bits.code},
                            {"bits_linears_stored", bits.stored},
                            {"bits_all", 8.0 * static_cast<double>(bytes) / static_cast<double>(counts.all)},
                            {"memory_bytes", memory},
                            {"seconds_gradients", time.gradients},
                            {"seconds_statistics", time.statistics},
                            {"seconds_rounding", time.rounding},
                            {"seconds", time.all()}}
                           .dump(2));
    return;
  }
  fmt::print("{} -> {}\n", describe(model), flags.output);
  fmt::print("  size     {} bytes ({}); with the folder's entry, as du -b counts: {}\n", bytes, bytes_text(static_cast<double>(bytes)),
             bytes + entry);
  fmt::print("  bits     {:.4f} a weight of the linears, {:.4f} stored, {:.3f} of all weights\n", bits.code, bits.stored,
             8.0 * static_cast<double>(bytes) / static_cast<double>(counts.all));
  fmt::print("  memory   about {} beyond the mapped source\n", bytes_text(static_cast<double>(memory)));
  fmt::print("  time     about {:.0f} s with {} threads: {:.0f} s of gradients, {:.0f} s of statistics, {:.0f} s of rounding\n", time.all(),
             threads, time.gradients, time.statistics, time.rounding);
}

// The numbers of the experts that were not rounded under their own tokens: "3, 17".
std::string experts_text(const std::string& letters) {
  std::string text;
  for (size_t e = 0; e < letters.size(); ++e)
    if (letters[e] != 'o') text += fmt::format("{}{}", text.empty() ? "" : ", ", e);
  return text;
}

void print_summary(const QuantizeSummary& summary, const Flags& flags) {
  if (flags.json) {
    Json errors = Json::object();
    for (const auto& [name, error] : summary.errors) errors[name] = error;
    fmt::print("{}\n", Json{{"bytes", summary.files_bytes},
                            {"bits_linears", summary.bits.code},
                            {"bits_linears_stored", summary.bits.stored},
                            {"seconds_gradients", summary.seconds_gradients},
                            {"seconds_statistics", summary.seconds_statistics},
                            {"seconds_rounding", summary.seconds_rounding},
                            {"relative_error", errors},
                            {"experts", summary.experts}}
                           .dump(2));
    return;
  }
  for (const auto& [tap, letters] : summary.experts)
    if (const auto few = std::count(letters.begin(), letters.end(), 's') + std::count(letters.begin(), letters.end(), 'i'); few > 0)
      fmt::print("{}: {} experts without tokens of their own, or too few: {}\n", tap, few, experts_text(letters));
  fmt::print("{}: {}, {:.3f} bits a weight of the linears; {:.0f} s of gradients, {:.0f} s of statistics, {:.0f} s of rounding\n",
             flags.output, bytes_text(static_cast<double>(summary.files_bytes)), summary.bits.stored, summary.seconds_gradients,
             summary.seconds_statistics, summary.seconds_rounding);
}

Status act(const Flags& flags) {
  TQ_ASSIGN(QuantizeOptions options, options_of(flags));
  TQ_ASSIGN(const Model model, load_model(flags.model));
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  if (!session->backend().training() && uses_gradients(options)) {
    if (options.gradients) return bad_usage("--gradients on: the backend {} has none; use --backend cpu", session->backend().name());
    options.gradients = false;
  }
  TQ_ASSIGN(const QuantizePlan plan, make_plan(model, options));
  if (flags.dry_run) {
    print_plan(model, plan, flags, *session);
    return {};
  }
  auto result = quantize(model, plan, flags.output, flags.resume, session->backend(), session->context());
  if (!result && result.error().code == ErrorCode::kInterrupted)
    return fail(ErrorCode::kInterrupted, "stopped; the same command with --resume continues");
  if (!result) return Unexpected(result.error());
  print_summary(*result, flags);
  return {};
}

}  // namespace

Command add_quantize(CLI::App& root) {
  CLI::App* app = root.add_subcommand("quantize", "Make a model smaller");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Hugging Face directory or GGUF file")->required();
  app->add_option("-o,--output", flags->output, "Directory to write")->required();
  app->add_option("-b,--bits", flags->bits, "Mean bits a weight of the linears, 2 to 8; fractions are fine")->required();
  app->add_option("--method", flags->method, "turboquant, or one to compare with: rtn, gptq, awq, quip")->capture_default_str();
  app->add_option("--group", flags->group, "Columns that share a scale with rtn, gptq and awq; 0: a whole row")->capture_default_str();
  app->add_option("--act-order", flags->act_order, "Columns by falling diagonal of the Hessian: on (gptq's own way) or off (turboquant's)")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--damping", flags->damping, "Added to the Hessian's diagonal, relative to its mean")
      ->capture_default_str()
      ->check(CLI::Range(1e-6, 1.0));
  app->add_option("--passes", flags->passes, "Times that every column is rounded again, given all others")
      ->capture_default_str()
      ->check(CLI::Range(0, 10));
  app->add_option("--effort", flags->effort, "fast, normal or best")->capture_default_str();
  app->add_option("--embedding", flags->embedding, "Bits of the embedding, or 'original'; a tied one follows --head")
      ->capture_default_str();
  app->add_option("--head", flags->head, "Bits of the head, or 'original'")->capture_default_str();
  app->add_option("--calibration", flags->calibration, "Text files to measure on instead of the built-in text");
  app->add_option("--calibration-tokens", flags->calibration_tokens, "Tokens to measure on; 0 follows the effort")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--gradients", flags->gradients, "Weight the tokens by what the loss feels at each linear; on, but for effort fast")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--seed", flags->seed, "Of the random rotation");
  app->add_flag("--dry-run", flags->dry_run, "Print size, memory and time; write nothing");
  app->add_flag("--resume", flags->resume, "Continue an interrupted run");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
