#include "eval/summary.h"

#include <cmath>

#include "base/counted.h"
#include "eval/report/report.h"

namespace tq {
namespace {

constexpr size_t kPositionParts = 16;

Json mean_json(const Mean& mean) { return {{"mean", mean.mean}, {"stderr", mean.standard_error}}; }

// exp(x) under `name`, and its standard error to first order.
void add_exp(Json& out, const std::string& name, const Mean& mean) {
  out[name] = std::exp(mean.mean);
  out[name + "_stderr"] = std::exp(mean.mean) * mean.standard_error;
}

const Metric* same_metric(const TaskResult* original, const Metric& metric) {
  if (!original) return nullptr;
  for (const Metric& other : original->metrics)
    if (other.name == metric.name && other.values.size() == metric.values.size()) return &other;
  return nullptr;
}

Json metric_json(const Metric& metric, const Metric* original) {
  const Mean mean = metric.mean();
  Json out = {{"name", metric.name}, {"mean", mean.mean}, {"stderr", mean.standard_error}};
  if (metric.chance) {
    out["chance"] = *metric.chance;
    out["near_chance"] = metric.is_near_chance();
  }
  if (!original) return out;
  const Mean other = original->mean();
  out["original"] = other.mean;
  out["original_stderr"] = other.standard_error;
  if (metric.chance) out["original_near_chance"] = original->is_near_chance();
  const PairedDifference paired = paired_difference(metric, *original);
  out["difference"] = {
      {"mean", paired.difference.mean}, {"stderr", paired.difference.standard_error}, {"low", paired.low}, {"high", paired.high}};
  if (metric.counts_flips) out["difference"]["gained"] = paired.gained, out["difference"]["lost"] = paired.lost;
  return out;
}

// The first metric by group, if the items have groups.
Json groups_json(const TaskResult& result) {
  Json out = Json::array();
  if (result.metrics.empty()) return out;
  const Metric& metric = result.metrics[0];
  std::vector<std::pair<std::string, std::vector<double>>> groups;
  for (size_t i = 0; i < result.groups.size(); ++i) {
    if (result.groups[i].empty()) continue;
    if (groups.empty() || groups.back().first != result.groups[i]) groups.push_back({result.groups[i], {}});
    groups.back().second.push_back(metric.values[i]);
  }
  for (const auto& [name, values] : groups) {
    const Mean mean = mean_of(values);
    out.push_back({{"name", name}, {"items", values.size()}, {"mean", mean.mean}, {"stderr", mean.standard_error}});
  }
  return out;
}

std::string line(const std::string& name, double mean, double error, int digits) {
  return fmt::format("  {:<24} {:.{}f} {}\n", name, mean, digits, error_text(error, digits));
}

}  // namespace

Json text_json(const TextResult& result) {
  Json out = {{"name", result.name}, {"window", result.window}, {"windows", result.windows}, {"tokens", result.tokens}};
  const bool with_original = !result.positions.loss_original.empty();
  if (with_original) out["kl"] = mean_json(result.kl);
  add_exp(out, "ppl", result.loss);
  if (!with_original) return out;
  add_exp(out, "ppl_original", result.loss_original);
  add_exp(out, "ppl_ratio", result.loss_difference);
  out["top1"] = result.top1.mean;
  out["top1_stderr"] = result.top1.standard_error;
  if (!result.positions.kl_float.empty()) out["kl_float_activations"] = mean_json(result.kl_float);
  out["kl_median"] = result.kl_median;
  out["kl_99"] = result.kl_99;
  out["kl_by_position"] = report::by_position(result.positions.kl, result.positions.per_window, kPositionParts);
  return out;
}

Json task_json(const TaskResult& result, const TaskResult* original) {
  Json out = {{"name", result.name}, {"scoring", result.description}, {"items", result.ids.size()}, {"metrics", Json::array()}};
  for (const Metric& metric : result.metrics) out["metrics"].push_back(metric_json(metric, same_metric(original, metric)));
  if (Json groups = groups_json(result); !groups.empty()) out["groups"] = std::move(groups);
  return out;
}

std::string text_lines(const TextResult& result) {
  const bool with_original = !result.positions.loss_original.empty();
  std::string out = fmt::format("{}: {} of {}, {} scored\n", result.name, counted(result.windows, "window"), result.window,
                                counted(result.tokens, "token"));
  if (with_original) {
    out += line("KL", result.kl.mean, result.kl.standard_error, 5);
    if (!result.positions.kl_float.empty()) out += line("KL, float activations", result.kl_float.mean, result.kl_float.standard_error, 5);
    out += fmt::format("  {:<24} {:.5f} median, {:.4f} at 99 %\n", "KL of positions", result.kl_median, result.kl_99);
    out += line("same first token, %", 100 * result.top1.mean, 100 * result.top1.standard_error, 2);
    const double original = std::exp(result.loss_original.mean);
    out += line("perplexity, original", original, original * result.loss_original.standard_error, 3);
  }
  const double ppl = std::exp(result.loss.mean);
  out += line("perplexity", ppl, ppl * result.loss.standard_error, 3);
  if (!with_original) return out;
  const double ratio = std::exp(result.loss_difference.mean);
  return out + line("perplexity ratio", ratio, ratio * result.loss_difference.standard_error, 4);
}

std::string task_lines(const TaskResult& result, const TaskResult* original) {
  std::string out = fmt::format("{}: {}; {}\n", result.name, counted(result.ids.size(), "item"), result.description);
  for (const Metric& metric : result.metrics) {
    const Mean mean = metric.mean();
    out += line(metric.name, mean.mean, mean.standard_error, 4);
    const Metric* other = same_metric(original, metric);
    if (other) {
      const Mean theirs = other->mean();
      out += line("  original", theirs.mean, theirs.standard_error, 4);
      const PairedDifference paired = paired_difference(metric, *other);
      out += fmt::format("  {:<24} {:+.4f}, 95 %: {}", "  difference", paired.difference.mean, interval_text(paired, 1, 4));
      if (metric.counts_flips) out += fmt::format("; {} gained, {} lost", paired.gained, paired.lost);
      out += "\n";
    }
    if (metric.is_near_chance() || (other && other->is_near_chance()))
      out += fmt::format("    {} within two standard errors of guessing ({:.4f}): no claim can rest on it\n",
                         metric.is_near_chance() ? "this model is" : "the original is", *metric.chance);
  }
  return out;
}

}  // namespace tq
