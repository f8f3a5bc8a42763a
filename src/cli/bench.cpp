#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "base/counted.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/version.h"
#include "cli/build_id.h"
#include "cli/command.h"
#include "cli/goes_with.h"
#include "cli/number_checks.h"
#include "convert/import.h"
#include "eval/linears.h"
#include "eval/random_model.h"
#include "eval/speed.h"
#include "eval/streams.h"

namespace tq::cli {
namespace {

struct Flags {
  std::vector<std::string> models, bits = {"3", "4", "16"};
  std::string random;
  uint64_t seed = 0;
  SpeedOptions speed;
  std::vector<int64_t> depths = {0}, streams, linears;
  bool json = false, invariant = false;
  ComputeFlags compute;
};

double share(double bytes_per_second, double read) { return read > 0 ? bytes_per_second / read : 0; }
double share(const SpeedResult& speed) { return share(speed.decode_bytes_per_second, speed.read_bytes_per_second); }

double bits_of_linears(const Model& model) {
  return 8.0 * static_cast<double>(stored_bytes(model).linears) / static_cast<double>(count_weights(model.spec).linears);
}

Json speed_json(const Model& model, int64_t depth, const SpeedResult& speed) {
  return {{"model", model.source},
          {"bits_linears", bits_of_linears(model)},
          {"bytes", stored_bytes(model).all},
          {"depth", depth},
          {"prompt_tokens_per_second", speed.prompt_tokens_per_second},
          {"decode_tokens_per_second", speed.decode_tokens_per_second},
          {"bytes_per_token", speed.bytes_per_token},
          {"decode_gigabytes_per_second", speed.decode_bytes_per_second / 1e9},
          {"read_gigabytes_per_second", speed.read_bytes_per_second / 1e9},
          {"decode_share_of_read", share(speed)},
          {"logits_hash", hex64(speed.logits_hash)}};
}

void print_speed(const Model& model, int64_t depth, const SpeedResult& speed) {
  fmt::print("{:<36} {:>10} {:>7} {:>9.1f} {:>9.1f} {:>7.1f} {:>7.1f} {:>6.0f} %  {}\n", model.source,
             bytes_text(static_cast<double>(stored_bytes(model).all)), depth, speed.prompt_tokens_per_second,
             speed.decode_tokens_per_second, speed.decode_bytes_per_second / 1e9, speed.read_bytes_per_second / 1e9, 100 * share(speed),
             hex64(speed.logits_hash));
}

StreamsOptions streams_options(int64_t streams, const Flags& flags) {
  return {.streams = streams,
          .prompt_tokens = flags.speed.prompt_tokens,
          .answer_tokens = flags.speed.answer_tokens,
          .prompt_chunk = flags.compute.backend == "cuda" ? kDevicePromptChunk : kHostPromptChunk,
          .repetitions = flags.speed.repetitions,
          .precision = flags.invariant ? Precision::kInvariant : Precision::kInt8};
}

SpeedOptions speed_options(int64_t depth, const Flags& flags) {
  SpeedOptions options = flags.speed;
  options.depth = depth;
  return options;
}

// Answers at once, instead of a single one.
Status measure_many(const Model& model, const Flags& flags, Session& session, Network& network, Json& results) {
  Json all = Json::array();
  for (const int64_t streams : flags.streams) {
    TQ_ASSIGN(const StreamsResult speed, measure_streams(network, streams_options(streams, flags), session.context()));
    all.push_back({{"streams", streams},
                   {"tokens_per_second", speed.tokens_per_second},
                   {"decode_tokens_per_second", speed.decode_tokens_per_second},
                   {"first_token_seconds", speed.first_token_seconds},
                   {"last_first_token_seconds", speed.last_first_token_seconds},
                   {"kv_bytes", speed.kv_bytes},
                   {"memory_bytes", speed.memory_bytes},
                   {"footprint_bytes", speed.footprint_bytes}});
    if (!flags.json)
      fmt::print("{:<36} {:>8} {:>9.1f} {:>9.1f} {:>10.2f} {:>10.2f} {:>10}\n", model.source, streams, speed.tokens_per_second,
                 speed.decode_tokens_per_second, speed.first_token_seconds, speed.last_first_token_seconds,
                 bytes_text(static_cast<double>(speed.kv_bytes)));
  }
  results.push_back({{"model", model.source}, {"bytes", stored_bytes(model).all}, {"streams", std::move(all)}});
  return {};
}

Json linear_json(const LinearSpeed& linear, double read) {
  return {{"name", linear.name},
          {"tokens", linear.tokens},
          {"rows", linear.rows},
          {"columns", linear.columns},
          {"experts", linear.experts},
          {"calls", linear.calls},
          {"bytes", linear.bytes},
          {"microseconds", 1e6 * linear.seconds},
          {"gigabytes_per_second", linear.bytes_per_second / 1e9},
          {"share_of_read", share(linear.bytes_per_second, read)}};
}

std::string shape_text(const LinearSpeed& linear) {
  if (linear.rows == 0) return "";
  const std::string matrix = fmt::format("{} x {}", linear.rows, linear.columns);
  return linear.experts == 0 ? matrix : fmt::format("{} of {}", linear.experts, matrix);
}

void print_linear(const Model& model, const LinearSpeed& linear, double read) {
  fmt::print("{:<36} {:>6}  {:<15} {:>19} {:>5} {:>10} {:>10.1f} {:>7.1f} {:>7.1f} {:>6.0f} %\n", model.source, linear.tokens, linear.name,
             shape_text(linear), linear.calls, bytes_text(static_cast<double>(linear.bytes) / static_cast<double>(linear.calls)),
             1e6 * linear.seconds, linear.bytes_per_second / 1e9, read / 1e9, 100 * share(linear.bytes_per_second, read));
}

Status measure_each_linear(const Model& model, const Flags& flags, Session& session, const Network& network, Json& results) {
  const LinearsOptions options{.tokens = flags.linears, .repetitions = flags.speed.repetitions};
  TQ_ASSIGN(const LinearsResult result, measure_linears(network, options, session.context()));
  Json linears = Json::array(), layers = Json::array();
  for (const int64_t tokens : flags.linears) {
    const LinearSpeed layer = mean_layer(result, tokens, model.spec.layers_count());
    layers.push_back(linear_json(layer, result.read_bytes_per_second));
    for (const LinearSpeed& linear : result.linears) {
      if (linear.tokens != tokens) continue;
      linears.push_back(linear_json(linear, result.read_bytes_per_second));
      if (!flags.json) print_linear(model, linear, result.read_bytes_per_second);
    }
    if (!flags.json) print_linear(model, layer, result.read_bytes_per_second);
  }
  results.push_back({{"model", model.source},
                     {"bits_linears", bits_of_linears(model)},
                     {"bytes", stored_bytes(model).all},
                     {"read_gigabytes_per_second", result.read_bytes_per_second / 1e9},
                     {"linears", std::move(linears)},
                     {"layers", std::move(layers)}});
  return {};
}

Status measure_depths(const Model& model, const Flags& flags, Session& session, Network& network, Json& results) {
  for (const int64_t depth : flags.depths) {
    TQ_ASSIGN(const SpeedResult speed, measure_speed(network, speed_options(depth, flags), session.context()));
    results.push_back(speed_json(model, depth, speed));
    if (!flags.json) print_speed(model, depth, speed);
  }
  return {};
}

bool measures_speed(const Flags& flags) { return flags.streams.empty() && flags.linears.empty(); }

// Before anything takes time.
Status check_context(const ModelSpec& spec, const std::string& source, const Flags& flags) {
  for (const int64_t streams : flags.streams) TQ_TRY(check_streams(spec, source, streams_options(streams, flags)));
  for (const int64_t depth : flags.depths)
    if (measures_speed(flags)) TQ_TRY(check_speed(spec, source, speed_options(depth, flags)));
  return {};
}

// All that are named; what is wrong with one of them is said before another is measured.
Result<std::vector<Model>> load_models(const Flags& flags) {
  std::vector<Model> models;
  for (const std::string& path : flags.models) {
    TQ_ASSIGN(Model model, load_model(path));
    TQ_TRY(check_context(model.spec, model.source, flags));
    models.push_back(std::move(model));
  }
  return models;
}

Status measure(const Model& model, const Flags& flags, Session& session, Json& results) {
  TQ_ASSIGN(Network network, Network::create(model, session.backend()));
  if (!flags.streams.empty()) return measure_many(model, flags, session, network, results);
  if (!flags.linears.empty()) return measure_each_linear(model, flags, session, network, results);
  return measure_depths(model, flags, session, network, results);
}

Result<int> random_bits(const std::string& text) {
  if (text == "16" || (text.size() == 1 && text[0] >= '2' && text[0] <= '8')) return std::stoi(text);
  return bad_usage("--bits {}: give 2 to 8, or 16", text);
}

void print_head(const Json& facts, const Flags& flags) {
  const SpeedOptions& speed = flags.speed;
  fmt::print("tq {}, {}, {}\n", facts["build"].get<std::string>(), facts["backend"].get<std::string>(),
             facts["processor"].get<std::string>());
  if (!flags.streams.empty()) {
    fmt::print("streams of {} of prompt and {} of answer, all submitted at once{}, median of {}\n", counted(speed.prompt_tokens, "token"),
               counted(speed.answer_tokens, "token"), flags.invariant ? ", batch-invariant" : "", speed.repetitions);
    fmt::print("{:<36} {:>8} {:>9} {:>9} {:>10} {:>10} {:>10}\n", "model", "streams", "tok/s", "decode/s", "first s", "last s", "keys");
    return;
  }
  if (!flags.linears.empty()) {
    fmt::print("linears on their own, all layers in turn, median of {}; layer: the mean of one, without the head\n", speed.repetitions);
    fmt::print("{:<36} {:>6}  {:<15} {:>19} {:>5} {:>10} {:>10} {:>7} {:>7} {:>8}\n", "model", "tokens", "linears", "matrix", "calls",
               "a call", "us a call", "GB/s", "read", "of it");
    return;
  }
  fmt::print("prompt of {}, {} decoded, each behind a context of depth tokens, median of {}\n", counted(speed.prompt_tokens, "token"),
             counted(speed.answer_tokens, "token"), speed.repetitions);
  fmt::print("{:<36} {:>10} {:>7} {:>9} {:>9} {:>7} {:>7} {:>8}  {}\n", "model", "size", "depth", "prompt/s", "decode/s", "GB/s", "read",
             "of it", "logits");
}

// One after the other; where one fails, `results` has those before it.
Status measure_all(const std::vector<Model>& models, const Flags& flags, Session& session, Json& results) {
  for (const Model& model : models) TQ_TRY(measure(model, flags, session, results));
  if (flags.random.empty()) return {};
  for (const std::string& text : flags.bits) {
    TQ_ASSIGN(const int bits, random_bits(text));
    TQ_ASSIGN(const Model model, make_random_model({.name = flags.random, .bits = bits, .seed = flags.seed}, session.threads()));
    TQ_TRY(measure(model, flags, session, results));
  }
  return {};
}

Status act(const Flags& flags, const CLI::App& app) {
  TQ_TRY(goes_with(app, {"--bits", "--seed"}, "--random", !flags.random.empty()));
  if (flags.models.empty() && flags.random.empty())
    return bad_usage("give a model, or --random {}", fmt::join(random_model_names(), " | "));
  if (!flags.models.empty() && !flags.random.empty()) return bad_usage("give a model or --random {}, not both", flags.random);
  if (flags.invariant && flags.streams.empty()) return bad_usage("--batch-invariant goes with --streams");
  if (!flags.streams.empty() && !flags.linears.empty()) return bad_usage("--streams and --linears: give one of them");
  if (flags.depths != std::vector<int64_t>{0} && !measures_speed(flags)) return bad_usage("--depth goes without --streams and --linears");
  if (!flags.random.empty()) {
    TQ_ASSIGN(const ModelSpec spec, random_model_spec({.name = flags.random}));
    TQ_TRY(check_context(spec, "random " + flags.random, flags));
  }
  for (const std::string& text : flags.bits) TQ_TRY(random_bits(text));
  TQ_ASSIGN(const std::vector<Model> models, load_models(flags));
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  Json facts = {{"program", program_name()},
                {"build", build_id()},
                {"backend", session->backend().name()},
                {"processor", processor_name()},
                {"threads", session->threads().size()},
                {"prompt_tokens", flags.speed.prompt_tokens},
                {"answer_tokens", flags.speed.answer_tokens},
                {"repetitions", flags.speed.repetitions},
                {"batch_invariant", flags.invariant},
                {"results", Json::array()}};
  if (!flags.json) print_head(facts, flags);
  const Status measured = measure_all(models, flags, *session, facts["results"]);
  if (flags.json && (measured || !facts["results"].empty())) fmt::print("{}\n", json_text(facts, 2));
  return measured;
}

}  // namespace

Command add_bench(CLI::App& root) {
  CLI::App* app = root.add_subcommand("bench", "Measure how fast models run here");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->models, "Artifacts, Hugging Face directories or GGUF files");
  app->add_option("--random", flags->random,
                  fmt::format("Shapes of a known model with random weights instead: {}", fmt::join(random_model_names(), ", ")));
  app->add_option("--bits", flags->bits, "Of the random weights: 2 to 8, or 16 (F16), with commas")->delimiter(',')->capture_default_str();
  app->add_option("--seed", flags->seed, "Of the random weights")->check(seed_number());
  app->add_option("--prompt", flags->speed.prompt_tokens, "Tokens of the prompt")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app->add_option("-n,--tokens", flags->speed.answer_tokens, "Tokens to decode")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app->add_option("--depth", flags->depths, "Tokens that are in the context before prompt and answer; several numbers with commas")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 24))
      ->default_str("0");
  app->add_option("--linears", flags->linears,
                  "Measure each kind of linear with so many tokens at once instead; several numbers with commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 13));
  app->add_option("--repeat", flags->speed.repetitions, "Repetitions, of which the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app->add_option("--streams", flags->streams, "Answer so many requests at once instead of one; several numbers with commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16));
  app->add_flag("--batch-invariant", flags->invariant, "With --streams: answers that do not depend on the others");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags, app] { return act(*flags, *app); }};
}

}  // namespace tq::cli
