#include "cli/comparison_tables.h"

#include <algorithm>

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
  std::string out = fmt::format("  {:<{}} {:>8.{}f} ± {:.{}f}{}", name, kLabel + 5, factor * mean.mean, digits,
                                factor * mean.standard_error, digits, metric.is_near_chance() ? " †" : "  ");
  if (!original) return out + "\n";
  const PairedDifference paired = paired_difference(metric, *original);
  out += fmt::format("  {:>+8.{}f}, 95 %: {:+.{}f} to {:+.{}f}", factor * paired.difference.mean, digits, factor * paired.low, digits,
                     factor * paired.high, digits);
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

}  // namespace

std::string text_table(std::vector<ComparedModel> models, const report::Report& report) {
  if (models.empty() || models[0].subject->texts.empty()) return {};
  sort(models);
  const TextResult& first = models[0].subject->texts[0];
  std::string out = fmt::format("{}\nKL to the original, windows of {}\n\n{:<{}} {:>5} {:>8} {:>10} {:>9}", report.protocol, first.window,
                                "method", kLabel, "bits", "stored", "bytes", "seconds");
  for (const TextResult& text : models[0].subject->texts)
    out += fmt::format("  {:>22}", fmt::format("{:.16} × {}", text.name, text.windows));
  out += "\n";
  for (const ComparedModel& model : models) {
    const report::ModelFacts& facts = model.subject->model;
    out += fmt::format("{:<{}} {:>5g} {:>8.4f} {:>10} {:>9}", model.label, kLabel, model.bits, facts.bits_linears,
                       bytes_text(static_cast<double>(facts.file_bytes)), model.seconds > 0 ? fmt::format("{:.0f}", model.seconds) : "");
    for (const TextResult& text : model.subject->texts)
      out += fmt::format("  {:>22}", fmt::format("{:.5f} ± {:.5f}", text.kl.mean, text.kl.standard_error));
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
      out += fmt::format("{}, {}{}: {} items\n", original.name, metric.name, metric.counts_flips ? ", %" : "", original.ids.size());
      out += figure_row("original", metric, nullptr);
      for (const ComparedModel& model : models) out += figure_row(name_of(model), model.subject->tasks[t].metrics[m], &metric);
      out += near_chance(models, metric, t, m) + "\n";
    }
  }
  return out;
}

}  // namespace tq::cli
