#include "eval/report/report.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "eval/report/charts.h"
#include "eval/report/style.h"
#include "eval/report/svg.h"
#include "eval/report/task_table.h"

namespace tq::report {
namespace {

constexpr size_t kPositionParts = 32;

std::string size_text(uint64_t bytes) {
  const auto size = static_cast<double>(bytes);
  return size >= 1e9 ? fmt::format("{:.2f} GB", size / 1e9) : fmt::format("{:.1f} MB", size / 1e6);
}

std::string tile(const std::string& value, const std::string& what) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>\n", escaped(value), escaped(what));
}

bool has_divergence(const Subject& subject) { return !subject.texts.empty() && !subject.texts[0].positions.kl.empty(); }

bool any_divergence(const Report& report) { return std::any_of(report.subjects.begin(), report.subjects.end(), has_divergence); }

std::string title_of(const Report& report) {
  if (!report.title.empty()) return report.title;
  std::string names;
  for (const Subject& subject : report.subjects) names += (names.empty() ? "" : ", ") + subject.model.name;
  return names;
}

std::string tiles(const Report& report) {
  std::string out = "<div class=\"tiles\">\n";
  const Subject& first = report.subjects[0];
  const double times =
      static_cast<double>(first.model.bytes_in_16_bits) / static_cast<double>(std::max<uint64_t>(1, first.model.file_bytes));
  out += tile(size_text(first.model.file_bytes), first.model.name + ", on disk");
  out += tile(fmt::format("{:.1f} ×", times), "smaller than in 16 bits");
  out += tile(fmt::format("{:.2f}", first.model.bits_linears), "bits a weight of its linears");
  if (has_divergence(first)) {
    out += tile(fmt::format("{:.4f}", first.texts[0].kl.mean), "KL on " + first.texts[0].name);
    out += tile(fmt::format("{:.1f} %", 100 * first.texts[0].top1.mean), "same first token");
  }
  return out + "</div>\n";
}

std::string sizes(const Report& report) {
  std::vector<Bar> bars;
  const ModelFacts& any = report.original ? *report.original : report.subjects[0].model;
  const auto bar = [](const std::string& name, uint64_t bytes, double bits, const std::string& style) {
    return Bar{
        .label = name, .note = fmt::format("{}, {:.2f} bits", size_text(bytes), bits), .value = static_cast<double>(bytes), .style = style};
  };
  bars.push_back(bar("in 16 bits", any.bytes_in_16_bits, 16, "base"));
  if (report.original) bars.push_back(bar(any.name, any.file_bytes, any.bits_all, "base"));
  for (size_t i = 0; i < report.subjects.size(); ++i) {
    const ModelFacts& model = report.subjects[i].model;
    bars.push_back(bar(model.name, model.file_bytes, model.bits_all, series_style(i)));
  }
  return "<section>" + heading("Size", "Weight files; bits a weight of everything, embedding and head included.") +
         bar_chart(bars, "Bars of the sizes of the weight files") + "</section>\n";
}

// Which colour is which model; nothing when there is one.
std::string model_legend(const Report& report) {
  std::vector<std::pair<std::string, std::string>> names;
  for (size_t i = 0; i < report.subjects.size(); ++i) names.emplace_back(series_style(i), report.subjects[i].model.name);
  return names.size() > 1 ? legend(names) : "";
}

std::string divergence_by_text(const Report& report) {
  std::string out = "<section>" + heading("KL divergence by text",
                                          "Mean of sum p log(p / q) over positions, p the original's probabilities; 0 is no loss. "
                                          "Whiskers: standard error over windows.");
  std::vector<Bar> bars;
  for (size_t t = 0; t < report.subjects[0].texts.size(); ++t) {
    for (size_t i = 0; i < report.subjects.size(); ++i) {
      const Subject& subject = report.subjects[i];
      if (t >= subject.texts.size()) continue;
      const TextResult& text = subject.texts[t];
      // Several models: the colour tells them apart, as in the other pictures.
      bars.push_back({.label = text.name,
                      .note = fmt::format("{:.4f} {}", text.kl.mean, error_text(text.kl.standard_error, 4)),
                      .value = text.kl.mean,
                      .error = whisker(text.kl),
                      .style = series_style(i)});
    }
  }
  return out + model_legend(report) + bar_chart(bars, "Bars of the divergence for each text") + "</section>\n";
}

std::string divergence_by_position(const Report& report) {
  std::string out =
      "<section>" + heading("KL divergence by position in the window",
                            "How much context the model has seen when it predicts; a curve that rises would mean that errors add up. "
                            "Whiskers: standard error over windows.");
  out += model_legend(report);
  for (size_t t = 0; t < report.subjects[0].texts.size(); ++t) {
    std::vector<Series> series;
    const TextResult& text = report.subjects[0].texts[t];
    for (size_t i = 0; i < report.subjects.size(); ++i) {
      if (t >= report.subjects[i].texts.size()) continue;
      const Positions& positions = report.subjects[i].texts[t].positions;
      series.push_back({report.subjects[i].model.name, series_style(i), by_position(positions.kl, positions.per_window, kPositionParts),
                        errors_by_position(positions.kl, positions.per_window, kPositionParts)});
    }
    out += fmt::format("<h3>{}</h3>\n", escaped(text.name));
    out += line_chart(series, static_cast<double>(text.positions.per_window), "scored position", "KL",
                      "Divergence over positions of " + text.name);
  }
  return out + "</section>\n";
}

bool any_float(const Report& report) {
  for (const Subject& subject : report.subjects)
    for (const TextResult& text : subject.texts)
      if (!text.positions.kl_float.empty()) return true;
  return false;
}

std::string text_table(const Report& report) {
  const bool with_original = any_divergence(report), with_float = any_float(report);
  std::string out =
      "<section>" + heading("Figures", report.protocol) + "<table><tr><th>model, text</th><th>windows</th><th>perplexity</th>";
  if (with_original) {
    out += "<th>original’s</th><th>KL</th>";
    if (with_float) out += "<th>KL, float activations</th>";
    out += "<th>same first token</th>";
  }
  out += "</tr>\n";
  for (const Subject& subject : report.subjects) {
    for (const TextResult& text : subject.texts) {
      out += fmt::format("<tr><td>{}<br>{}</td><td>{} × {}</td><td>{:.3f}</td>", escaped(subject.model.name), escaped(text.name),
                         text.windows, text.window, std::exp(text.loss.mean));
      if (with_original) {
        const std::string exact = text.positions.kl_float.empty() ? "–" : fmt::format("{:.4f}", text.kl_float.mean);
        out += fmt::format("<td>{:.3f}</td><td>{:.4f} {}</td>", std::exp(text.loss_original.mean), text.kl.mean,
                           error_text(text.kl.standard_error, 4));
        if (with_float) out += fmt::format("<td>{}</td>", exact);
        out += fmt::format("<td>{:.2f} %</td>", 100 * text.top1.mean);
      }
      out += "</tr>\n";
    }
  }
  return out + "</table></section>\n";
}

// Kinds of tensors in the order of first use, without the head.
std::vector<std::string> kinds_of(const ModelFacts& model) {
  std::vector<std::string> kinds;
  for (const TensorFacts& tensor : model.tensors)
    if (tensor.layer >= 0 && std::find(kinds.begin(), kinds.end(), tensor.kind) == kinds.end()) kinds.push_back(tensor.kind);
  return kinds;
}

std::string error_by_tensor(const ModelFacts& model) {
  const std::vector<std::string> kinds = kinds_of(model);
  std::vector<Dot> dots;
  std::string head;
  for (const TensorFacts& tensor : model.tensors) {
    if (tensor.relative_error < 0) continue;
    if (tensor.layer < 0) {
      head = fmt::format(" The {} at {:.3g} bits: {:.3f} %.", tensor.kind, tensor.bits, 100 * tensor.relative_error);
      continue;
    }
    const auto kind = static_cast<size_t>(std::find(kinds.begin(), kinds.end(), tensor.kind) - kinds.begin());
    dots.push_back({tensor.layer, 100 * tensor.relative_error, series_style(kind),
                    fmt::format("{}: {:.3f} % at {:.3g} bits", tensor.name, 100 * tensor.relative_error, tensor.bits)});
  }
  if (dots.empty()) return {};
  std::vector<std::pair<std::string, std::string>> names;
  for (size_t i = 0; i < kinds.size(); ++i) names.emplace_back(series_style(i), kinds[i]);
  return "<section>" +
         heading("Error by tensor: " + model.name,
                 "Energy of the error of each linear's output over that of the output, under the statistics of "
                 "the calibration text." +
                     head + (model.unusual_inputs.empty() ? "" : " " + model.unusual_inputs)) +
         legend(names) + dot_chart(dots, model.layers, "layer", "error, %", "Error of every linear by layer") + "</section>\n";
}

std::string rates_by_layer(const ModelFacts& model) {
  const std::vector<std::string> kinds = kinds_of(model);
  double low = 8, high = 1;
  std::vector<HeatRow> rows;
  for (const std::string& kind : kinds) {
    HeatRow row{kind, std::vector<double>(static_cast<size_t>(model.layers), std::numeric_limits<double>::quiet_NaN())};
    for (const TensorFacts& tensor : model.tensors) {
      if (tensor.kind != kind || tensor.layer < 0 || tensor.bits <= 0) continue;
      row.values[static_cast<size_t>(tensor.layer)] = tensor.bits;
      low = std::min(low, tensor.bits), high = std::max(high, tensor.bits);
    }
    rows.push_back(std::move(row));
  }
  if (low > high) return {};
  std::string head;
  for (const TensorFacts& tensor : model.tensors)
    if (tensor.layer < 0 && tensor.bits > 0) head = fmt::format(" The {}: {:.3g} bits.", tensor.kind, tensor.bits);
  return "<section>" +
         heading("Rates by layer: " + model.name, "Bits a weight of each linear, without scales and padding." + head + model.rates_choice) +
         heat_map(rows, "layer", low, high, "Bits a weight of every linear by layer") + "</section>\n";
}

// One line for each method: what a bit buys.
std::string divergence_by_bits(const Report& report) {
  std::string out =
      "<section>" + heading("KL divergence against bits",
                            "Bits a weight of the linears as they are stored: scales, tables and padding included. Logarithmic "
                            "upwards; lower and further left is better. Whiskers: standard error over windows.");
  for (size_t t = 0; t < report.subjects[0].texts.size(); ++t) {
    std::vector<Curve> curves;
    for (const Subject& subject : report.subjects) {
      auto curve = std::find_if(curves.begin(), curves.end(), [&](const Curve& each) { return each.name == subject.method; });
      if (curve == curves.end()) curve = curves.insert(curve, {subject.method, series_style(curves.size()), {}});
      const Mean& kl = subject.texts[t].kl;
      const std::string tip = fmt::format("{}: {:.5f} {} at {:.3f} bits", subject.model.name, kl.mean, error_text(kl.standard_error, 5),
                                          subject.model.bits_linears);
      if (kl.mean > 0) curve->points.push_back({subject.model.bits_linears, kl.mean, whisker(kl), tip});
    }
    for (Curve& curve : curves)
      std::sort(curve.points.begin(), curve.points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
    std::vector<std::pair<std::string, std::string>> names;
    for (const Curve& curve : curves) names.emplace_back(curve.style, curve.name);
    const std::string& name = report.subjects[0].texts[t].name;
    out += fmt::format("<h3>{}</h3>\n", escaped(name)) + legend(names);
    out += curve_chart(curves, "bits a weight", "KL", "Divergence on " + name + " over bits a weight, a line for each method");
  }
  return out + "</section>\n";
}

std::string subtitle(const Report& report) {
  std::string text = report.subjects[0].model.description + ".";
  if (report.original) {
    const ModelFacts& original = *report.original;
    text += fmt::format(" Against {} ({}).", original.name, original.format);
    if (original.bits_linears < 15.5)
      text +=
          fmt::format(" That original is itself a quantized file, of {:.2f} bits a weight of its linears: its losses are not counted here.",
                      original.bits_linears);
  }
  std::string out = fmt::format("<p class=\"sub\">{}</p>\n", escaped(text));
  for (const std::string& note : report.notes) out += fmt::format("<p class=\"note\">{}</p>\n", escaped(note));
  return out;
}

std::string folded(const std::string& content, const std::string& summary, bool folds) {
  if (content.empty() || !folds) return content;
  return fmt::format("<details><summary>{}</summary>\n{}</details>\n", escaped(summary), content);
}

}  // namespace

std::vector<double> by_position(const std::vector<double>& values, int64_t per_window, size_t parts) {
  if (per_window < 1 || values.empty()) return {};
  parts = std::min(parts, static_cast<size_t>(per_window));
  std::vector<double> sums(parts), counts(parts);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t position = i % static_cast<size_t>(per_window), part = position * parts / static_cast<size_t>(per_window);
    sums[part] += values[i], counts[part] += 1;
  }
  for (size_t i = 0; i < parts; ++i) sums[i] /= std::max(1.0, counts[i]);
  return sums;
}

std::vector<double> errors_by_position(const std::vector<double>& values, int64_t per_window, size_t parts) {
  if (per_window < 1 || values.empty()) return {};
  parts = std::min(parts, static_cast<size_t>(per_window));
  const size_t window = static_cast<size_t>(per_window);
  std::vector<std::vector<double>> means(parts);  // of each window
  for (size_t begin = 0; begin + window <= values.size(); begin += window) {
    const std::vector<double> one(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                  values.begin() + static_cast<std::ptrdiff_t>(begin + window));
    const std::vector<double> by_part = by_position(one, per_window, parts);
    for (size_t i = 0; i < parts; ++i) means[i].push_back(by_part[i]);
  }
  std::vector<double> errors;
  for (const std::vector<double>& each : means) errors.push_back(whisker(mean_of(each)));
  return errors;
}

std::string page(const Report& report) {
  TQ_CHECK(!report.subjects.empty());
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n"
      "<title>{} – TurboQuant</title>\n<style>{}</style>\n</head>\n<body><main>\n<h1>{}</h1>\n",
      escaped(title_of(report)), kStyle, escaped(title_of(report)));
  out += subtitle(report) + (report.subjects[0].method.empty() ? tiles(report) : "") + sizes(report);
  if (any_divergence(report) && !report.subjects[0].method.empty()) out += divergence_by_bits(report);
  // Of a comparison lines over bits say it; a bar and a curve for each artifact fold away.
  if (any_divergence(report))
    out += folded(divergence_by_text(report) + divergence_by_position(report), "Each artifact by text and by position",
                  !report.subjects[0].method.empty());
  if (!report.subjects[0].texts.empty()) out += text_table(report);
  out += task_table(report);
  // Of many models the tensors fold away.
  const bool folds = report.subjects.size() > 2;
  for (const Subject& subject : report.subjects)
    out += folded(error_by_tensor(subject.model) + rates_by_layer(subject.model), "Tensors of " + subject.model.name, folds);
  return out + "</main></body>\n</html>\n";
}

}  // namespace tq::report
