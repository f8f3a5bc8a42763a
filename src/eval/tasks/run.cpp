#include "eval/tasks/run.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/counted.h"
#include "base/rng.h"
#include "eval/tasks/likelihood.h"
#include "graph/kv_cache.h"
#include "run/engine.h"

namespace tq {
namespace {

struct EncodedItem {
  std::vector<std::vector<TokenId>> contexts;       // one, or one for each choice
  std::vector<std::vector<TokenId>> continuations;  // one for each choice
  std::vector<double> bytes;                        // of each choice's text
};

EncodedItem encode(const Tokenizer& tokenizer, const Item& item) {
  EncodedItem out;
  const auto add = [&](const std::string& context, const std::string& choice) {
    TokenPair pair = encode_pair(tokenizer, context, choice);
    out.contexts.push_back(std::move(pair.context));
    out.continuations.push_back(std::move(pair.continuation));
    out.bytes.push_back(static_cast<double>(std::max<size_t>(1, choice.size() - choice.starts_with(' '))));
  };
  if (item.contexts.empty())
    for (const std::string& choice : item.choices) add(item.context, choice);
  for (const std::string& context : item.contexts) add(context, item.choices[0]);
  return out;
}

int64_t longest_pair(const std::vector<EncodedItem>& items) {
  size_t longest = 1;
  for (const EncodedItem& item : items)
    for (size_t i = 0; i < item.contexts.size(); ++i) longest = std::max(longest, item.contexts[i].size() + item.continuations[i].size());
  return static_cast<int64_t>(longest);
}

std::vector<Likelihood> score(LikelihoodScorer& scorer, const EncodedItem& item) {
  const bool is_shared =
      std::all_of(item.contexts.begin(), item.contexts.end(), [&](const auto& each) { return each == item.contexts[0]; });
  if (is_shared) return scorer.score(item.contexts[0], item.continuations);
  std::vector<Likelihood> out;
  for (size_t i = 0; i < item.contexts.size(); ++i)
    out.push_back(scorer.score(item.contexts[i], std::span(item.continuations).subspan(i, 1))[0]);
  return out;
}

// A task on the way: the items that run, what they give.
class TaskRun {
 public:
  TaskRun(Network& network, const Task& task, const TaskOptions& options, const Context& context)
      : network_(network), task_(task), options_(options), context_(context), tokenizer_(*network.model().tokenizer) {
    for (const size_t i : chosen_items(task.items.size(), options.limit, options.seed)) items_.push_back(&task.items[i]);
    result_.name = task.name, result_.description = task.description;
    for (const Item* item : items_) result_.ids.push_back(item->id), result_.groups.push_back(item->group);
  }

  Result<TaskResult> run() {
    if (task_.kind == TaskKind::kGeneration) TQ_TRY(generate());
    const bool has_choices = std::all_of(items_.begin(), items_.end(), [](const Item* item) { return !item->choices.empty(); });
    if (has_choices) TQ_TRY(measure_likelihoods());
    return std::move(result_);
  }

 private:
  Status measure_likelihoods() {
    std::vector<EncodedItem> encoded;
    for (const Item* item : items_) encoded.push_back(encode(tokenizer_, *item));
    TQ_ASSIGN(LikelihoodScorer scorer, LikelihoodScorer::create(network_, longest_pair(encoded)));
    const std::string step = task_.kind == TaskKind::kGeneration ? task_.name + ", model solutions" : task_.name;
    Metric accuracy{"acc", {}, chance(), true}, by_bytes{"acc_bytes", {}, chance(), true};
    Metric loss{task_.kind == TaskKind::kGeneration ? "canonical_loss_per_byte" : "loss_per_byte", {}, {}, false};
    for (size_t i = 0; i < items_.size(); ++i) {
      if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const std::vector<Likelihood> all = score(scorer, encoded[i]);
      if (task_.kind == TaskKind::kChoice) {
        std::vector<double> plain, normal;
        for (size_t c = 0; c < all.size(); ++c) {
          plain.push_back(all[c].log_likelihood);
          normal.push_back(all[c].log_likelihood / encoded[i].bytes[c]);
        }
        accuracy.values.push_back(best(plain) == items_[i]->gold ? 1 : 0);
        by_bytes.values.push_back(best(normal) == items_[i]->gold ? 1 : 0);
      } else {
        accuracy.values.push_back(all[0].is_greedy ? 1 : 0);
        loss.values.push_back(-all[0].log_likelihood / encoded[i].bytes[0]);
      }
      context_.listener.progress(step, static_cast<int64_t>(i + 1), static_cast<int64_t>(items_.size()));
    }
    if (task_.kind != TaskKind::kGeneration) result_.metrics.push_back(std::move(accuracy));
    if (task_.kind == TaskKind::kChoice && task_.by_bytes) result_.metrics.push_back(std::move(by_bytes));
    if (task_.kind != TaskKind::kChoice) result_.metrics.push_back(std::move(loss));
    return {};
  }

  static size_t best(const std::vector<double>& values) {
    return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
  }

  std::optional<double> chance() const {
    if (task_.kind != TaskKind::kChoice || items_.empty()) return std::nullopt;
    double sum = 0;
    for (const Item* item : items_) sum += 1.0 / static_cast<double>(item->options());
    return sum / static_cast<double>(items_.size());
  }

  Status warn_of_network() const {
    TQ_ASSIGN(const bool is_isolated, task_.is_isolated());
    if (!is_isolated)
      context_.listener.warn(
          fmt::format("{}: the system allows no name spaces here, so that programs which the model writes have a network; their time, "
                      "memory and files are limited",
                      task_.name));
    return {};
  }

  // Tokens of an answer at most: half of a short context is the prompt's.
  int64_t answer_tokens() const { return std::min(task_.max_tokens, std::max<int64_t>(1, network_.model().spec.context / 2)); }

  void warn_of_context(size_t cut) const {
    const Model& model = network_.model();
    if (answer_tokens() < task_.max_tokens)
      context_.listener.warn(fmt::format("{}: answers end after {} instead of {}: {} was made for {}", task_.name,
                                         counted(answer_tokens(), "token"), task_.max_tokens, model.source, model.spec.context));
    if (cut > 0)
      context_.listener.warn(fmt::format("{}: {} lost the beginning: {} was made for {} tokens, of which an answer takes up to {}",
                                         task_.name, counted(cut, "prompt"), model.source, model.spec.context, answer_tokens()));
  }

  // The items' prompts; one without room beside its answer loses the beginning.
  std::vector<std::vector<TokenId>> fitting_prompts() const {
    const int64_t room = std::max<int64_t>(1, network_.model().spec.context - answer_tokens());
    std::vector<std::vector<TokenId>> prompts;
    size_t cut = 0;
    for (const Item* item : items_) {
      std::vector<TokenId>& prompt = prompts.emplace_back(tokenizer_.encode(item->context, true, true));
      if (static_cast<int64_t>(prompt.size()) <= room) continue;
      prompt.erase(prompt.begin(), prompt.end() - room);
      ++cut;
    }
    warn_of_context(cut);
    return prompts;
  }

  Status generate() {
    if (task_.is_isolated) TQ_TRY(warn_of_network());
    const int64_t most = answer_tokens();
    const std::vector<std::vector<TokenId>> prompts = fitting_prompts();
    size_t longest = 1;
    for (const std::vector<TokenId>& prompt : prompts) longest = std::max(longest, prompt.size());
    const int64_t needed = static_cast<int64_t>(longest) + most + 1;
    TQ_ASSIGN(Engine engine, engine_for(std::min(network_.model().spec.context, needed)));
    TQ_ASSIGN(const std::vector<std::string> texts, answer_all(engine, prompts, most));
    TQ_ASSIGN(std::vector<double> means, judge(texts));
    result_.metrics.push_back({task_.metric, std::move(means), {}, true});
    return {};
  }

  int64_t answers() const { return static_cast<int64_t>(items_.size()) * options_.samples; }

  // Answers that are written at a time: of a processor as many as share its products with planes, twice.
  int64_t together() const { return network_.backend().is_host() ? 16 : 64; }

  // Room for so many sequences, or for what there is. What is answered does not depend on what is computed beside it.
  Result<Engine> engine_for(int64_t context) const {
    EngineOptions options{.context = context, .precision = Precision::kInvariant};
    for (int64_t sequences = std::min(together(), answers());; sequences /= 2) {
      const int64_t pages = (context + options.page_tokens - 1) / options.page_tokens * sequences;
      options.kv_bytes = static_cast<uint64_t>(pages) * kv_page_bytes(network_.model().spec, options.kv_type, options.page_tokens);
      auto engine = Engine::create(network_, &tokenizer_, options);
      if (engine || engine.error().code != ErrorCode::kNoResource || sequences <= 1) return engine;
    }
  }

  Request request_of(const std::vector<TokenId>& prompt, int64_t item, int64_t sample, int64_t most) const {
    Request request{.prompt = prompt, .max_tokens = most, .stop = task_.stop, .continues_text = true};
    request.sampler = {.temperature = options_.temperature,  // and nothing else, as the papers sample
                       .top_k = 0,
                       .top_p = 1.0f,
                       .min_p = 0.0f,
                       .repetition_penalty = 1.0f,
                       .seed = splitmix64(options_.seed + static_cast<uint64_t>(item)) + static_cast<uint64_t>(sample)};
    return request;
  }

  // Of every item in turn, its samples' texts.
  Result<std::vector<std::string>> answer_all(Engine& engine, const std::vector<std::vector<TokenId>>& prompts, int64_t most) {
    std::vector<std::string> texts(static_cast<size_t>(answers()));
    std::map<int64_t, size_t> running;  // by request: which text it writes
    for (int64_t begun = 0, done = 0; done < answers();) {
      if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      for (; begun < answers() && static_cast<int64_t>(running.size()) < together(); ++begun) {
        const int64_t item = begun / options_.samples;
        TQ_ASSIGN(const int64_t id, engine.submit(request_of(prompts[static_cast<size_t>(item)], item, begun % options_.samples, most)));
        running[id] = static_cast<size_t>(begun);
      }
      for (const Event& event : engine.step()) {
        texts[running.at(event.id)] += event.text;
        if (event.finish == Finish::kNotFinite)
          return bad_input("{}: its logits are no finite numbers; fetch or make it again", network_.model().source);
        if (!event.finish) continue;
        running.erase(event.id);
        engine.forget(event.id);
        context_.listener.progress(task_.name, ++done, answers());
      }
    }
    return texts;
  }

  // Of every item the mean of its answers' values. Programs are run side by side, one a thread.
  Result<std::vector<double>> judge(const std::vector<std::string>& texts) const {
    std::vector<Result<double>> values(texts.size(), fail(ErrorCode::kInterrupted, "stopped"));
    context_.threads.run(answers(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end && !context_.stopped(); ++i)
        values[static_cast<size_t>(i)] = task_.check(*items_[static_cast<size_t>(i / options_.samples)], texts[static_cast<size_t>(i)]);
    });
    std::vector<double> means(items_.size());
    for (size_t i = 0; i < values.size(); ++i) {
      TQ_ASSIGN(const double value, values[i]);
      means[i / static_cast<size_t>(options_.samples)] += value / static_cast<double>(options_.samples);
    }
    return means;
  }

  Network& network_;
  const Task& task_;
  const TaskOptions& options_;
  const Context& context_;
  const Tokenizer& tokenizer_;
  std::vector<const Item*> items_;
  TaskResult result_;
};

}  // namespace

bool Metric::is_near_chance() const {
  if (!chance) return false;
  const Mean own = mean();
  return !(own.mean > *chance + 2 * own.standard_error);
}

std::vector<size_t> chosen_items(size_t count, int64_t limit, uint64_t seed) {
  std::vector<size_t> all(count);
  std::iota(all.begin(), all.end(), size_t{0});
  const auto wanted = static_cast<size_t>(limit);
  if (limit <= 0 || wanted >= count) return all;
  Rng rng(seed);
  for (size_t i = 0; i < wanted; ++i) std::swap(all[i], all[i + rng.below(count - i)]);
  all.resize(wanted);
  std::sort(all.begin(), all.end());
  return all;
}

Result<TaskResult> run_task(Network& network, const Task& task, const TaskOptions& options, const Context& context) {
  if (!network.model().tokenizer) return bad_input("{}: it has no tokenizer, so that no task can be run", network.model().source);
  if (options.samples > 1 && !(options.temperature > 0)) return bad_usage("--samples {} needs a --temperature above 0", options.samples);
  return TaskRun(network, task, options, context).run();
}

PairedDifference paired_difference(const Metric& metric, const Metric& original) {
  TQ_CHECK(metric.values.size() == original.values.size());
  PairedDifference out;
  std::vector<double> differences;
  for (size_t i = 0; i < metric.values.size(); ++i) {
    differences.push_back(metric.values[i] - original.values[i]);
    if (!metric.counts_flips) continue;
    out.gained += differences.back() > 0, out.lost += differences.back() < 0;
  }
  out.difference = mean_of(differences);
  out.low = out.difference.mean - 1.96 * out.difference.standard_error;
  out.high = out.difference.mean + 1.96 * out.difference.standard_error;
  return out;
}

std::string interval_text(const PairedDifference& paired, double factor, int digits) {
  if (!std::isfinite(paired.low)) return "-";
  return fmt::format("{:+.{}f} to {:+.{}f}", factor * paired.low, digits, factor * paired.high, digits);
}

}  // namespace tq
