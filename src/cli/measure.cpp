#include "cli/measure.h"

#include <algorithm>

#include <CLI/CLI.hpp>

#include "base/mapped_file.h"
#include "convert/import.h"
#include "eval/summary.h"
#include "quantize/text_overlap.h"

namespace tq::cli {
namespace {

constexpr double kOverlapShare = 0.001;  // licences and the like are below it

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// Warns of what the models have been calibrated on.
Result<EvalText> read_text(const std::string& path, const MeasureRequest& request, Session& session) {
  TQ_ASSIGN(const std::string text, read_text_file(path));
  for (const TextOverlap& overlap : overlaps(text, request.calibration))
    if (overlap.share >= kOverlapShare)
      session.context().listener.warn(
          fmt::format("{}: {:.1f} % of its runs of {} words stand in the calibration text {}; figures on it flatter", path,
                      100 * overlap.share, kOverlapWords, overlap.calibration));
  const Tokenizer& tokenizer = *request.models[0]->model.tokenizer;
  return EvalText{file_name(path), tokenizer.encode(text, false, request.wanted.options.protocol == Protocol::kSecondHalf)};
}

std::vector<std::string> list_of(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    if (end > at) out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

std::string task_names() {
  std::string out = "kl, ppl";
  for (const TaskEntry& entry : known_tasks()) out += fmt::format(", {} ({})", entry.name, entry.help);
  return out + ", or files NAME.jsonl";
}

void print_name(const Loaded& each, size_t count) {
  if (count > 1) fmt::print("\n{}\n", each.model.source);
}

}  // namespace

void add_measure_flags(CLI::App& app, MeasureFlags& flags) {
  app.add_option("--tasks", flags.tasks, task_names())->capture_default_str();
  app.add_option("--text", flags.texts, "Text files, for kl and ppl");
  app.add_option("--window", flags.window, "Tokens of a window")->check(CLI::Range(16, 1 << 20))->capture_default_str();
  app.add_option("--windows", flags.windows, "Windows at most, from the front of each text")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--protocol", flags.protocol, "huggingface or llama.cpp")->capture_default_str();
  app.add_option("--rows", flags.rows,
                 "Tokens of a window that are computed at once: 1 as decoding does, up to 64 as batches do; 0: all, as prompts are")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--skip-float", flags.skip_float, "Leave out the divergence with float activations");
  app.add_option("--task-data", flags.task_data, "Folder with the files of the tasks");
  app.add_option("--limit", flags.task.limit, "Items of a task at most, drawn by --seed; 0: all")->check(CLI::NonNegativeNumber);
  app.add_option("--samples", flags.task.samples, "Answers an item, where answers are generated")->check(CLI::Range(1, 1000));
  app.add_option("--temperature", flags.task.temperature, "Of generated answers; 0: greedy")->check(CLI::Range(0.0, 10.0));
  app.add_option("--seed", flags.task.seed, "Of drawn items and answers");
}

Result<Measurements> measurements_of(const MeasureFlags& flags, bool with_original) {
  const std::optional<Protocol> protocol = protocol_from_name(flags.protocol);
  if (!protocol) return bad_usage("--protocol {}: give huggingface or llama.cpp", flags.protocol);
  if (flags.task.samples > 1 && !(flags.task.temperature > 0))
    return bad_usage("--samples {} needs a --temperature above 0", flags.task.samples);
  Measurements out;
  out.options = {
      .window = flags.window, .windows = flags.windows, .protocol = *protocol, .rows = flags.rows, .with_float = !flags.skip_float};
  out.task = flags.task;
  bool has_kl = false, has_ppl = false;
  for (const std::string& name : list_of(flags.tasks)) {
    if (name == "kl") has_kl = true;
    else if (name == "ppl") has_ppl = true;
    else {
      TQ_ASSIGN(Task task, load_task(name, {flags.task_data}));
      out.tasks.push_back(std::move(task));
    }
  }
  if (!has_kl && !has_ppl && out.tasks.empty()) return bad_usage("--tasks: name at least one of {}", task_names());
  if (has_kl && !has_ppl && !with_original) return bad_usage("the task kl needs --against ORIGINAL");
  if (has_kl || has_ppl) out.texts = flags.texts;
  if ((has_kl || has_ppl) && flags.texts.empty()) return bad_usage("kl and ppl need --text FILE; --tasks names other tasks");
  return out;
}

std::string protocol_text(Protocol protocol) {
  constexpr const char* kFirst = "the first token of a window is bos if the vocabulary adds one";
  return protocol == Protocol::kAll ? fmt::format("protocol huggingface: every token of a window but the first is scored; {}", kFirst)
                                    : fmt::format("protocol llama.cpp: the second half of every window is scored; {}", kFirst);
}

Result<std::unique_ptr<Loaded>> load(const std::string& path, Session& session) {
  auto loaded = std::make_unique<Loaded>();
  TQ_ASSIGN(loaded->model, load_model(path));
  if (!loaded->model.tokenizer) return bad_input("{}: it has no tokenizer, so that no text can be run through it", path);
  TQ_ASSIGN(loaded->network, Network::create(loaded->model, session.backend()));
  return loaded;
}

std::vector<CalibrationText> known_calibration(const std::vector<std::unique_ptr<Loaded>>& models) {
  for (const auto& each : models) {
    const auto record = read_json_file(each->model.source + "/turboquant.json");
    if (!record || !record->is_object()) continue;
    const auto names = record->find("calibration");
    if (names == record->end() || *names == Json{kBuiltInCalibration}) return built_in_calibration();
  }
  return {};
}

Status measure(const MeasureRequest& request, Session& session, report::Report& report) {
  const auto& [models, original, wanted, calibration, print] = request;
  Network* const reference = original ? &*original->network : nullptr;
  std::vector<Network*> networks;
  for (const auto& each : models) networks.push_back(&*each->network);
  for (const std::string& path : wanted.texts) {
    TQ_ASSIGN(const EvalText text, read_text(path, request, session));
    TQ_ASSIGN(std::vector<TextResult> results, evaluate(networks, reference, text, wanted.options, session.context()));
    if (print && &path == &wanted.texts.front()) fmt::print("{}\n", report.protocol);
    for (size_t i = 0; i < models.size(); ++i) {
      if (print) print_name(*models[i], models.size()), fmt::print("{}", text_lines(results[i]));
      report.subjects[i].texts.push_back(std::move(results[i]));
    }
  }
  for (const Task& task : wanted.tasks) {
    if (reference) {
      TQ_ASSIGN(TaskResult result, run_task(*reference, task, wanted.task, session.context()));
      report.original_tasks.push_back(std::move(result));
    }
    for (size_t i = 0; i < models.size(); ++i) {
      TQ_ASSIGN(TaskResult result, run_task(*networks[i], task, wanted.task, session.context()));
      if (print)
        print_name(*models[i], models.size()), fmt::print("{}", task_lines(result, reference ? &report.original_tasks.back() : nullptr));
      report.subjects[i].tasks.push_back(std::move(result));
    }
  }
  return {};
}

}  // namespace tq::cli
