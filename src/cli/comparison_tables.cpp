#include "cli/comparison_tables.h"

#include <algorithm>

#include "base/counted.h"
#include "cli/command.h"

namespace tq::cli {
namespace {

constexpr int kLabel = 20;

double divergence(const ComparedModel& model) { return model.subject->texts.empty() ? 0 : model.subject->texts[0].kl.mean; }

void sort(std::vector<ComparedModel>& models) {
  std::stable_sort(models.begin(), models.end(), [](const ComparedModel& a, const ComparedModel& b) {
    return std::pair(a.bits, divergence(a)) < std::pair(b.bits, divergence(b));
  });
}

std::string name_of(const ComparedModel& model) { return fmt::format("{} {:g}", model.label, model.bits); }

// A row of a figure: the original's, or a model's with its difference.
std::string figure_row(const std::string& name, const Metric& metric, const Metric* original) {
  const double factor = metric.counts_flips ? 100 : 1;
  const int digits = metric.counts_flips ? 1 : 4;
  const Mean mean = metric.mean();
  std::string out = fmt::format("  {:<{}} {:>8.{}f} {}{}", name, kLabel + 5, factor * mean.mean, digits,
                                error_text(factor * mean.standard_error, digits), metric.is_near_chance() ? " †" : "  ");
  if (!original) return out + "\n";
  const PairedDifference paired = paired_difference(metric, *original);
  out += fmt::format("  {:>+8.{}f}, 95 %: {}", factor * paired.difference.mean, digits, interval_text(paired, factor, digits));
  if (metric.counts_flips) out += fmt::format("; {} gained, {} lost", paired.gained, paired.lost);
  return out + "\n";
}

// The names of those within what guessing gives.
std::string near_chance(const std::vector<ComparedModel>& models, const Metric& original, size_t task, size_t metric) {
  std::string out = original.is_near_chance() ? "the original" : "";
  for (const ComparedModel& model : models)
    if (model.subject->tasks[task].metrics[metric].is_near_chance()) out += (out.empty() ? "" : ", ") + name_of(model);
  return out.empty() ? out : "  † within two standard errors of guessing, left out of claims: " + out + "\n";
}

// The sum over what is not there.
template <typename Number>
double to_make(std::span<const PlannedArtifact> artifacts, Number PlannedArtifact::*figure) {
  double sum = 0;
  for (const PlannedArtifact& each : artifacts)
    if (!each.candidate->is_there) sum += static_cast<double>(each.*figure);
  return sum;
}

}  // namespace

std::string plan_table(std::span<const PlannedArtifact> artifacts, std::span<const LeftOut> left_out, bool is_card) {
  std::string out = fmt::format("{:<24} {:>5} {:>8} {:>10} {:>8}\n", "method", "bits", "stored", "artifact", "seconds");
  const double seconds = to_make(artifacts, &PlannedArtifact::seconds), bytes = to_make(artifacts, &PlannedArtifact::bytes);
  for (const PlannedArtifact& each : artifacts)
    out +=
        fmt::format("{:<24} {:>5g} {:>8.4f} {:>10} {:>8}\n", each.candidate->label, each.candidate->options.bits, each.stored,
                    bytes_text(static_cast<double>(each.bytes)), each.candidate->is_there ? "there" : fmt::format("{:.0f}", each.seconds));
  out += fmt::format("\nto be made: {} at most in about {:.0f} s{}\n", bytes_text(bytes), seconds,
                     is_card ? ", by what a card like an H200 took" : "");
  for (const LeftOut& each : left_out) out += fmt::format("left out: {}, {:g} bits: {}\n", each.method, each.bits, each.why);
  return out;
}

Json left_out_json(std::span<const LeftOut> left_out) {
  Json out = Json::array();
  for (const LeftOut& each : left_out) out.push_back({{"method", each.method}, {"bits", each.bits}, {"why", each.why}});
  return out;
}

Json plan_json(const CompareFlags& flags, std::span<const PlannedArtifact> artifacts, std::span<const LeftOut> left_out) {
  Json out = {{"original", flags.model},
              {"effort", flags.effort},
              {"calibration_tokens", artifacts[0].candidate->options.calibration_tokens},
              {"artifacts", Json::array()},
              {"left_out", left_out_json(left_out)},
              {"bytes_to_make", static_cast<uint64_t>(to_make(artifacts, &PlannedArtifact::bytes))},
              {"seconds_to_make", to_make(artifacts, &PlannedArtifact::seconds)}};
  for (const PlannedArtifact& each : artifacts)
    out["artifacts"].push_back({{"model", each.candidate->directory},
                                {"method", each.candidate->variant.name},
                                {"label", each.candidate->label},
                                {"bits", each.candidate->options.bits},
                                {"bits_linears_stored", each.stored},
                                {"bytes_at_most", each.bytes},
                                {"is_there", each.candidate->is_there},
                                {"seconds", each.seconds}});
  return out;
}

std::string text_table(std::vector<ComparedModel> models, const report::Report& report) {
  if (models.empty() || models[0].subject->texts.empty()) return {};
  sort(models);
  const TextResult& first = models[0].subject->texts[0];
  std::string out = fmt::format("{}\nKL to the original, windows of {}\n\n{:<{}} {:>5} {:>8} {:>10} {:>9}", report.protocol, first.window,
                                "method", kLabel, "bits", "stored", "artifact", "seconds");
  for (const TextResult& text : models[0].subject->texts)
    out += fmt::format("  {:>22}", fmt::format("{:.16} × {}", text.name, text.windows));
  out += "\n";
  for (const ComparedModel& model : models) {
    const report::ModelFacts& facts = model.subject->model;
    out += fmt::format("{:<{}} {:>5g} {:>8.4f} {:>10} {:>9}", model.label, kLabel, model.bits, facts.bits_linears,
                       bytes_text(static_cast<double>(model.bytes)), model.seconds > 0 ? fmt::format("{:.0f}", model.seconds) : "");
    for (const TextResult& text : model.subject->texts)
      out += fmt::format("  {:>22}", fmt::format("{:.5f} {}", text.kl.mean, error_text(text.kl.standard_error, 5)));
    out += "\n";
  }
  return out + "\n";
}

std::string task_table(std::vector<ComparedModel> models, const report::Report& report) {
  sort(models);
  std::string out;
  for (size_t t = 0; t < report.original_tasks.size(); ++t) {
    const TaskResult& original = report.original_tasks[t];
    for (size_t m = 0; m < original.metrics.size(); ++m) {
      const Metric& metric = original.metrics[m];
      out +=
          fmt::format("{}, {}{}: {}\n", original.name, metric.name, metric.counts_flips ? ", %" : "", counted(original.ids.size(), "item"));
      out += figure_row("original", metric, nullptr);
      for (const ComparedModel& model : models) out += figure_row(name_of(model), model.subject->tasks[t].metrics[m], &metric);
      out += near_chance(models, metric, t, m) + "\n";
    }
  }
  return out;
}

}  // namespace tq::cli
