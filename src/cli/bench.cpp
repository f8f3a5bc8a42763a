#include <algorithm>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "base/hash.h"
#include "cli/build_id.h"
#include "cli/command.h"
#include "convert/import.h"
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
  std::vector<int64_t> streams;
  bool json = false, invariant = false;
  ComputeFlags compute;
};

double share(const SpeedResult& speed) { return speed.decode_bytes_per_second / speed.read_bytes_per_second; }

Json speed_json(const Model& model, const SpeedResult& speed) {
  const StoredBytes bytes = stored_bytes(model);
  const WeightCounts counts = count_weights(model.spec);
  return {{"model", model.source},
          {"bits_linears", 8.0 * static_cast<double>(bytes.linears) / static_cast<double>(counts.linears)},
          {"bytes", bytes.all},
          {"prompt_tokens_per_second", speed.prompt_tokens_per_second},
          {"decode_tokens_per_second", speed.decode_tokens_per_second},
          {"bytes_per_token", speed.bytes_per_token},
          {"decode_gigabytes_per_second", speed.decode_bytes_per_second / 1e9},
          {"read_gigabytes_per_second", speed.read_bytes_per_second / 1e9},
          {"decode_share_of_read", share(speed)},
          {"logits_hash", hex64(speed.logits_hash)}};
}

void print_speed(const Model& model, const SpeedResult& speed) {
  fmt::print("{:<36} {:>10} {:>9.1f} {:>9.1f} {:>7.1f} {:>7.1f} {:>6.0f} %  {}\n", model.source,
             bytes_text(static_cast<double>(stored_bytes(model).all)), speed.prompt_tokens_per_second, speed.decode_tokens_per_second,
             speed.decode_bytes_per_second / 1e9, speed.read_bytes_per_second / 1e9, 100 * share(speed), hex64(speed.logits_hash));
}

// Answers at once, instead of a single one.
Status measure_many(const Model& model, const Flags& flags, Session& session, Network& network, Json& results) {
  Json all = Json::array();
  for (const int64_t streams : flags.streams) {
    const StreamsOptions options{.streams = streams,
                                 .prompt_tokens = flags.speed.prompt_tokens,
                                 .answer_tokens = flags.speed.answer_tokens,
                                 .repetitions = flags.speed.repetitions,
                                 .precision = flags.invariant ? Precision::kInvariant : Precision::kInt8};
    TQ_ASSIGN(const StreamsResult speed, measure_streams(network, options, session.context()));
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

Status measure(const Model& model, const Flags& flags, Session& session, Json& results) {
  TQ_ASSIGN(Network network, Network::create(model, session.backend()));
  if (!flags.streams.empty()) return measure_many(model, flags, session, network, results);
  TQ_ASSIGN(const SpeedResult speed, measure_speed(network, flags.speed, session.context()));
  results.push_back(speed_json(model, speed));
  if (!flags.json) print_speed(model, speed);
  return {};
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
    fmt::print("streams of {} tokens of prompt and {} of answer, all submitted at once{}, median of {}\n", speed.prompt_tokens,
               speed.answer_tokens, flags.invariant ? ", batch-invariant" : "", speed.repetitions);
    fmt::print("{:<36} {:>8} {:>9} {:>9} {:>10} {:>10} {:>10}\n", "model", "streams", "tok/s", "decode/s", "first s", "last s", "keys");
    return;
  }
  fmt::print("prompt of {} tokens, {} tokens decoded from an empty context, median of {}\n", speed.prompt_tokens, speed.answer_tokens,
             speed.repetitions);
  fmt::print("{:<36} {:>10} {:>9} {:>9} {:>7} {:>7} {:>8}  {}\n", "model", "size", "prompt/s", "decode/s", "GB/s", "read", "of it",
             "logits");
}

Status act(const Flags& flags) {
  if (flags.models.empty() == flags.random.empty())
    return bad_usage("give a model, or --random {}", fmt::join(random_model_names(), " | "));
  if (flags.invariant && flags.streams.empty()) return bad_usage("--batch-invariant goes with --streams");
  const std::span<const std::string_view> known = random_model_names();
  if (!flags.random.empty() && std::find(known.begin(), known.end(), flags.random) == known.end())
    return bad_usage("--random {}: give {}", flags.random, fmt::join(known, " or "));
  for (const std::string& text : flags.bits) TQ_TRY(random_bits(text));
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  Json facts = {{"program", "tq 0.1.0"},
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
  for (const std::string& path : flags.models) {
    TQ_ASSIGN(const Model model, load_model(path));
    TQ_TRY(measure(model, flags, *session, facts["results"]));
  }
  if (!flags.random.empty()) {
    for (const std::string& text : flags.bits) {
      TQ_ASSIGN(const int bits, random_bits(text));
      TQ_ASSIGN(const Model model, make_random_model({.name = flags.random, .bits = bits, .seed = flags.seed}, session->threads()));
      TQ_TRY(measure(model, flags, *session, facts["results"]));
    }
  }
  if (flags.json) fmt::print("{}\n", facts.dump(2));
  return {};
}

}  // namespace

Command add_bench(CLI::App& root) {
  CLI::App* app = root.add_subcommand("bench", "Measure how fast models run here");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->models, "Artifacts, Hugging Face directories or GGUF files");
  app->add_option("--random", flags->random, "Shapes of a known model with random weights instead: llama-1b, llama-8b, llama-70b");
  app->add_option("--bits", flags->bits, "Of the random weights: 2 to 8, or 16 (F16), with commas")->delimiter(',')->capture_default_str();
  app->add_option("--seed", flags->seed, "Of the random weights");
  app->add_option("--prompt", flags->speed.prompt_tokens, "Tokens of the prompt")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app->add_option("-n,--tokens", flags->speed.answer_tokens, "Tokens to decode")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app->add_option("--repeat", flags->speed.repetitions, "Repetitions, of which the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app->add_option("--streams", flags->streams, "Answer so many requests at once instead of one; several numbers with commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16));
  app->add_flag("--batch-invariant", flags->invariant, "With --streams: answers that do not depend on the others");
  app->add_flag("--json", flags->json, "Print facts as JSON");
  add_compute_flags(*app, flags->compute);
  return {app, [flags] { return act(*flags); }};
}

}  // namespace tq::cli
