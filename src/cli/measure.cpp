#include "cli/measure.h"

#include <algorithm>

#include <CLI/CLI.hpp>

#include "base/counted.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/mapped_file.h"
#include "cli/comma_list.h"
#include "cli/goes_with.h"
#include "cli/number_checks.h"
#include "convert/import.h"
#include "eval/summary.h"
#include "quantize/text_overlap.h"

namespace tq::cli {
namespace {

constexpr double kOverlapShare = 0.001;  // licences and the like are below it

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::vector<TokenId> encode(const Measurements& wanted, const Measurements::Text& text, const Model& model) {
  return model.tokenizer->encode(text.content, false, wanted.options.protocol == Protocol::kSecondHalf);
}

// What the vocabulary adds to a text: windows begin with it.
std::vector<TokenId> added_tokens(const Model& model) { return model.tokenizer->encode("", false, true); }

// Whether it is told by the files already, so that nothing need be encoded.
bool has_same_tokenizer(const Model& one, const Model& other) {
  const auto text_of = [](const Model& model, std::string_view name) {
    const auto found = std::find_if(model.files.begin(), model.files.end(), [&](const CarriedFile& file) { return file.name == name; });
    return found == model.files.end() ? std::string_view() : std::string_view(found->text);
  };
  if (one.spec.vocabulary != other.spec.vocabulary) return false;
  constexpr std::string_view kFiles[] = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json",
                                         "special_tokens_map.json"};
  return std::all_of(std::begin(kFiles), std::end(kFiles),
                     [&](std::string_view name) { return text_of(one, name) == text_of(other, name); });
}

void warn_of_calibration(const Measurements::Text& source, const MeasureRequest& request, Session& session) {
  const auto& [path, text] = source;
  for (const TextOverlap& overlap : overlaps(text, request.calibration.texts))
    if (overlap.share >= kOverlapShare)
      session.context().listener.warn(
          fmt::format("{}: {:.1f} % of its runs of {} words stand in the calibration text {}; figures on it flatter", path,
                      100 * overlap.share, kOverlapWords, overlap.calibration));
  const std::string hash = hex64(hash64(std::as_bytes(std::span<const char>(text))));
  for (const KnownCalibration::File& file : request.calibration.files)
    if (file.hash == hash)
      session.context().listener.warn(
          fmt::format("{}: {} was calibrated on this very text ({}); figures on it flatter", path, file.model, file.name));
}

bool is_known_task(const std::string& name) {
  const auto known = known_tasks();
  return std::any_of(known.begin(), known.end(), [&](const TaskEntry& entry) { return entry.name == name; });
}

std::string task_names() {
  std::string out = "kl, ppl";
  for (const TaskEntry& entry : known_tasks()) out += fmt::format(", {} ({})", entry.name, entry.help);
  return out + ", or files NAME.jsonl";
}

// The texts, then the tasks, of one request.
class Measuring {
 public:
  Measuring(const MeasureRequest& request, Session& session, report::Report& report)
      : request_(request), session_(session), report_(report), count_(request.models.size()) {}

  Status run() {
    for (size_t i = 0; i < request_.texts.size(); ++i) TQ_TRY(measure_text(i));
    for (const Task& task : request_.wanted.tasks) TQ_TRY(measure_task(task));
    return {};
  }

 private:
  Status measure_text(size_t index) {
    warn_of_calibration(request_.wanted.texts[index], request_, session_);
    const EvalText& text = request_.texts[index];
    std::vector<std::optional<TextResult>> results(count_);
    std::vector<size_t> missing;
    for (size_t i = 0; i < count_; ++i) {
      if (request_.kept) results[i] = request_.kept->results.text(text_key(i, text));
      if (!results[i]) missing.push_back(i);
    }
    if (!missing.empty()) TQ_TRY(evaluate_missing(text, missing, results));
    if (request_.print && index == 0) fmt::print("{}\n", report_.protocol);
    for (size_t i = 0; i < count_; ++i) {
      if (request_.print) print_name(i), fmt::print("{}", text_lines(*results[i]));
      report_.subjects[i].texts.push_back(std::move(*results[i]));
    }
    return {};
  }

  Status evaluate_missing(const EvalText& text, const std::vector<size_t>& missing, std::vector<std::optional<TextResult>>& results) {
    std::vector<Network*> networks;
    for (const size_t i : missing) {
      TQ_TRY(prepare(*request_.models[i], session_));
      networks.push_back(&*request_.models[i]->network);
    }
    if (request_.original) TQ_TRY(prepare(*request_.original, session_));
    Network* const reference = request_.original ? &*request_.original->network : nullptr;
    std::vector<Positions> done(missing.size());
    for (size_t k = 0; request_.kept && k < missing.size(); ++k) done[k] = request_.kept->results.first_windows(text_key(missing[k], text));
    auto made = evaluate(networks, reference, text, request_.wanted.options, session_.context(), request_.kept ? &done : nullptr);
    if (!made && made.error().code == ErrorCode::kInterrupted && request_.kept)
      for (size_t k = 0; k < missing.size(); ++k) TQ_TRY(request_.kept->results.keep_first(text_key(missing[k], text), done[k]));
    if (!made) return Unexpected(made.error());
    for (size_t k = 0; k < missing.size(); ++k) {
      if (request_.kept) TQ_TRY(keep(text_key(missing[k], text), (*made)[k]));
      results[missing[k]] = std::move((*made)[k]);
    }
    return {};
  }

  Status keep(const KeptResults::Key& key, const TextResult& result) const {
    TQ_TRY(request_.kept->results.keep(key, result));
    request_.kept->results.forget_first(key);
    return {};
  }

  Status measure_task(const Task& task) {
    const TaskResult* reference = nullptr;
    if (request_.original) {
      const std::string identity = request_.kept ? request_.kept->original : "";
      TQ_ASSIGN(TaskResult result, task_result(*request_.original, task, {"original", task.name, identity}));
      report_.original_tasks.push_back(std::move(result));
      reference = &report_.original_tasks.back();
    }
    for (size_t i = 0; i < count_; ++i) {
      const Kept* kept = request_.kept;
      const KeptResults::Key key = kept ? KeptResults::Key{kept->names[i], task.name, kept->identities[i]} : KeptResults::Key{};
      TQ_ASSIGN(TaskResult result, task_result(*request_.models[i], task, key));
      if (request_.print) print_name(i), fmt::print("{}", task_lines(result, reference));
      report_.subjects[i].tasks.push_back(std::move(result));
    }
    return {};
  }

  Result<TaskResult> task_result(Loaded& model, const Task& task, KeptResults::Key key) {
    const TaskOptions& options = request_.wanted.task;
    key.identity +=
        fmt::format("\n{} {} {} {} {}", hash_of(text_of(task)), options.limit, options.samples, options.temperature, options.seed);
    if (request_.kept)
      if (std::optional<TaskResult> found = request_.kept->results.task(key)) return std::move(*found);
    TQ_TRY(prepare(model, session_));
    TQ_ASSIGN(TaskResult result, run_task(*model.network, task, options, session_.context()));
    if (request_.kept) TQ_TRY(request_.kept->results.keep(key, result));
    return result;
  }

  KeptResults::Key text_key(size_t model, const EvalText& text) const {
    const EvalOptions& options = request_.wanted.options;
    const Kept& kept = *request_.kept;
    return {kept.names[model], text.name,
            fmt::format("{}\n{}\n{:016x} {} {} {} {} {}", kept.identities[model], kept.original,
                        hash64(std::as_bytes(std::span<const TokenId>(text.tokens))), options.window, options.windows,
                        protocol_name(options.protocol), options.rows, options.with_float)};
  }

  // All that its figures depend on.
  static std::string text_of(const Task& task) {
    Json items = Json::array();
    for (const Item& item : task.items)
      items.push_back({item.id, item.group, item.context, item.choices, item.contexts, item.gold, item.answer, item.name});
    return json_text(Json{static_cast<int>(task.kind), task.by_bytes, task.metric, task.stop, task.max_tokens, items});
  }
  static std::string hash_of(std::string_view text) { return hex64(hash64(std::as_bytes(std::span<const char>(text)))); }

  void print_name(size_t model) const {
    if (count_ > 1) fmt::print("\n{}\n", request_.models[model]->model.source);
  }

  const MeasureRequest& request_;
  Session& session_;
  report::Report& report_;
  size_t count_;
};

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
      ->check(at_least_zero());
  app.add_flag("--skip-float", flags.skip_float, "Leave out the divergence with float activations");
  app.add_option("--task-data", flags.task_data, "Folder with the files of the tasks");
  app.add_option("--limit", flags.task.limit, "Items of a task at most, drawn by --seed; 0: all")->check(at_least_zero());
  app.add_option("--samples", flags.task.samples, "Answers an item, where answers are generated")->check(CLI::Range(1, 1000));
  app.add_option("--temperature", flags.task.temperature, "Of generated answers; 0: greedy")->check(number_in(0, 10));
  app.add_option("--seed", flags.task.seed, "Of drawn items and answers")->check(seed_number());
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
  for (const std::string& name : split_at_commas(flags.tasks)) {
    if (name.empty()) continue;
    if (name == "kl") has_kl = true;
    else if (name == "ppl") has_ppl = true;
    else {
      TQ_ASSIGN(Task task, load_task(name, {flags.task_data}));
      out.has_known_task |= is_known_task(name);
      out.tasks.push_back(std::move(task));
    }
  }
  if (!has_kl && !has_ppl && out.tasks.empty()) return bad_usage("--tasks: name at least one of {}", task_names());
  if (has_kl && !has_ppl && !with_original) return bad_usage("the task kl needs --against ORIGINAL");
  if (!has_kl && !has_ppl) return out;
  out.has_divergence = with_original;
  if (flags.texts.empty()) return bad_usage("kl and ppl need --text FILE; --tasks names other tasks");
  for (const std::string& path : flags.texts) {
    TQ_ASSIGN(std::string content, read_text_file(path));
    out.texts.push_back({path, std::move(content)});
  }
  return out;
}

std::string protocol_text(Protocol protocol) {
  constexpr const char* kFirst = "the first token of a window is bos if the vocabulary adds one";
  return protocol == Protocol::kAll ? fmt::format("protocol huggingface: every token of a window but the first is scored; {}", kFirst)
                                    : fmt::format("protocol llama.cpp: the second half of every window is scored; {}", kFirst);
}

Result<std::unique_ptr<Loaded>> open(const std::string& path) {
  auto loaded = std::make_unique<Loaded>();
  TQ_ASSIGN(loaded->model, load_model(path));
  if (!loaded->model.tokenizer) return bad_input("{}: it has no tokenizer, so that no text can be run through it", path);
  return loaded;
}

Status prepare(Loaded& loaded, Session& session) {
  if (loaded.network) return {};
  TQ_ASSIGN(loaded.network, Network::create(loaded.model, session.backend()));
  return {};
}

Result<std::vector<EvalText>> encode_texts(const Measurements& wanted, const Model& model) {
  std::vector<EvalText> out;
  for (const Measurements::Text& text : wanted.texts) {
    std::vector<TokenId> tokens = encode(wanted, text, model);
    if (static_cast<int64_t>(tokens.size()) < wanted.options.window)
      return bad_input("{}: it has {}, less than one window of {}; give more text or a smaller --window", text.path,
                       counted(tokens.size(), "token"), wanted.options.window);
    out.push_back({file_name(text.path), std::move(tokens)});
  }
  return out;
}

Status check_same_tokens(const Measurements& wanted, const std::vector<EvalText>& texts, const Model& model, const Model& other) {
  if (texts.empty() || has_same_tokenizer(model, other)) return {};
  for (size_t i = 0; i < texts.size(); ++i)
    if (encode(wanted, wanted.texts[i], other) != texts[i].tokens)
      return bad_input("{}: its tokenizer makes other tokens of {} than that of {}; measure each of the two alone", other.source,
                       wanted.texts[i].path, model.source);
  if (added_tokens(model) == added_tokens(other)) return {};
  return bad_input("{}: its tokenizer begins a text with other tokens than that of {}; measure each of the two alone", other.source,
                   model.source);
}

Status check_windows(const Measurements& wanted, const Model& model) {
  const int64_t window = wanted.options.window, context = model.spec.context;
  if (wanted.texts.empty() || window <= context) return {};
  return bad_usage("windows of {} tokens: {} was made for {}; give --window {}", window, model.source, context, context);
}

Status check_measured(const CLI::App& app, const Measurements& wanted) {
  TQ_TRY(goes_with(app, {"--text", "--window", "--windows", "--protocol", "--rows", "--skip-float"}, "kl or ppl among the --tasks",
                   !wanted.texts.empty()));
  TQ_TRY(goes_with(app, {"--skip-float"}, "kl, which needs --against", wanted.has_divergence));
  TQ_TRY(goes_with(app, {"--task-data", "--limit", "--samples", "--temperature", "--seed"}, "other --tasks than kl and ppl",
                   !wanted.tasks.empty()));
  const bool generates =
      std::any_of(wanted.tasks.begin(), wanted.tasks.end(), [](const Task& task) { return task.kind == TaskKind::kGeneration; });
  TQ_TRY(goes_with(app, {"--task-data"}, "--tasks by name; files are read where they lie", wanted.has_known_task));
  return goes_with(app, {"--samples", "--temperature"}, "--tasks whose answers are generated, as those of gsm8k and humaneval", generates);
}

KnownCalibration known_calibration(const std::vector<std::unique_ptr<Loaded>>& models) {
  KnownCalibration out;
  for (const auto& each : models) {
    const auto record = read_json_file(each->model.source + "/turboquant.json");
    if (!record || !record->is_object()) continue;
    const auto names = record->find("calibration"), hashes = record->find("calibration_hashes");
    if (names == record->end() || *names == Json{kBuiltInCalibration}) {
      out.texts = built_in_calibration();
      continue;
    }
    if (!names->is_array() || hashes == record->end() || !hashes->is_array()) continue;
    for (size_t i = 0; i < std::min(names->size(), hashes->size()); ++i)
      if ((*names)[i].is_string() && (*hashes)[i].is_string())
        out.files.push_back({each->model.source, (*names)[i].get<std::string>(), (*hashes)[i].get<std::string>()});
  }
  return out;
}

Status measure(const MeasureRequest& request, Session& session, report::Report& report) {
  return Measuring(request, session, report).run();
}

}  // namespace tq::cli
