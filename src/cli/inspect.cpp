#include <algorithm>
#include <set>

#include <CLI/CLI.hpp>

#include "artifact/format.h"
#include "artifact/reader.h"
#include "base/json_text.h"
#include "cli/command.h"
#include "cli/goes_with.h"
#include "codec/grid/layout.h"
#include "convert/import.h"
#include "graph/network.h"
#include "tensor/ggml_types.h"

namespace tq::cli {
namespace {

struct Flags {
  std::string model;
  bool plan = false, verify = false, json = false;
  ComputeFlags compute;
};

std::string codec_text(const PackedTensor& tensor) {
  if (tensor.codec == CodecId::kPlain) return std::string(dtype_name(tensor.parts[0].view.dtype));
  if (tensor.codec == CodecId::kGgml) return std::string(ggml_type(tensor.variant)->name);
  return std::string(codec_of(tensor.codec).info().name);
}

// "3", or "3 and 4" with the share of rows.
std::string rate_text(const PackedTensor& tensor) {
  if (tensor.codec == CodecId::kScalar) return fmt::format("{}", tensor.part("scalar")->as<uint16_t>()[0]);
  if (tensor.codec == CodecId::kE8p) {
    const TensorView* residual = tensor.part("residual");
    return residual ? residual->dtype == DType::kU8 ? "3" : "4" : "2";
  }
  const TensorView* rates = tensor.codec == CodecId::kGrid ? tensor.part("rates") : nullptr;
  if (!rates) return "";
  return fmt::format("{:.3g}",
                     grid::mean_rate({rates->as<uint8_t>(), static_cast<size_t>(rates->count())}, tensor.shape[tensor.shape.size() - 2]));
}

// How finely the input is to be rounded in integer products: 8 or 15; 0 when the file does not say.
int activation_bits_of(const PackedTensor& tensor) {
  const TensorView* part = tensor.codec == CodecId::kGrid ? tensor.part("activation_bits") : nullptr;
  return part ? *part->as<uint8_t>() : 0;
}

double bits_of(const PackedTensor& tensor) {
  return 8.0 * static_cast<double>(tensor.bytes()) / static_cast<double>(element_count(tensor.shape));
}

// What the files hold beside the tensors: arrays that several of these share, once each, and headers.
struct OtherBytes {
  uint64_t signs = 0, tables = 0;  // of inputs; of taps and vectors
  uint64_t rest = 0;               // headers, and what the model does not use
};

OtherBytes other_bytes(const Model& model) {
  OtherBytes out;
  uint64_t listed = 0;
  std::set<const std::byte*> seen;
  for (const std::string& name : tensor_names(model.spec)) {
    const PackedTensor& tensor = *model.find(name);
    listed += tensor.bytes();
    for (const PackedTensor::Part& part : tensor.parts) {
      const bool is_sign = part.name == "sign";
      if ((is_sign || part.name.starts_with("taps.") || part.name.starts_with("e8p.")) && seen.insert(part.view.data).second)
        (is_sign ? out.signs : out.tables) += part.view.bytes();
    }
  }
  listed += out.signs + out.tables;
  out.rest = model.file_bytes - std::min(model.file_bytes, listed);
  return out;
}

void print_tensors(const Model& model) {
  fmt::print("{:<52} {:>16} {:>8} {:>6} {:>8} {:>12} {:>6}\n", "tensor", "shape", "codec", "rate", "bits", "bytes", "input");
  for (const std::string& name : tensor_names(model.spec)) {
    const PackedTensor& tensor = *model.find(name);
    const int precision = activation_bits_of(tensor);
    fmt::print("{:<52} {:>16} {:>8} {:>6} {:>8.3f} {:>12} {:>6}\n", name, shape_text(tensor.shape), codec_text(tensor), rate_text(tensor),
               bits_of(tensor), tensor.bytes(), precision ? fmt::format("{}", precision) : "");
  }
  const OtherBytes other = other_bytes(model);
  for (const auto& [what, bytes] : {std::pair{"signs of the inputs", other.signs},
                                    {"tables of taps and vectors", other.tables},
                                    {"headers and what the model does not use", other.rest},
                                    {"weight files", model.file_bytes}})
    if (bytes > 0) fmt::print("{:<94} {:>12}\n", what, bytes);
}

void print_totals(const Model& model) {
  const WeightCounts counts = count_weights(model.spec);
  const StoredBytes bytes = stored_bytes(model);
  fmt::print("{}: {}, {}\n", model.source, model.format, describe(model));
  fmt::print("linears  {:>8.4f} bits a weight, {}\n", 8.0 * static_cast<double>(bytes.linears) / static_cast<double>(counts.linears),
             bytes_text(static_cast<double>(bytes.linears)));
  fmt::print("all      {:>8.4f} bits a weight, {}; weight files {} bytes ({:.4f} GB)\n",
             8.0 * static_cast<double>(bytes.all) / static_cast<double>(counts.all), bytes_text(static_cast<double>(bytes.all)),
             model.file_bytes, static_cast<double>(model.file_bytes) / 1e9);
  fmt::print("in 16 bits it would take {}\n", bytes_text(2.0 * static_cast<double>(counts.all)));
}

// The kernels of a matrix by the tokens that it is multiplied with at once: "1-8: one | 9 and more: another".
std::string kernels_text(const Matrix& matrix) {
  constexpr int64_t kMostTokens = 1024;  // none begins behind
  std::string text, kernel = matrix.kernel(1);
  int64_t first = 1;
  for (int64_t tokens = 2; tokens <= kMostTokens; ++tokens) {
    std::string next = matrix.kernel(tokens);
    if (next == kernel) continue;
    text += first == tokens - 1 ? fmt::format("{}: {} | ", first, kernel) : fmt::format("{}-{}: {} | ", first, tokens - 1, kernel);
    first = tokens, kernel = std::move(next);
  }
  return fmt::format("{}{} and more: {}", text, first, kernel);
}

Status print_plan(const Model& model, const Flags& flags) {
  TQ_ASSIGN(const std::unique_ptr<Session> session, Session::open(flags.compute));
  fmt::print("kernels of {}, by the tokens that are multiplied at once:\n", session->backend().name());
  std::vector<const Linear*> all = linears(model.spec);
  all.push_back(&model.spec.head);
  for (const Linear* linear : all) {
    TQ_ASSIGN(const LinearWeight weight, prepare_linear(model, *linear, session->backend()));
    fmt::print("{:<52} {}\n", linear->name, kernels_text(*weight.matrix));
  }
  return {};
}

Json inspect_json(const Model& model) {
  const WeightCounts counts = count_weights(model.spec);
  const StoredBytes bytes = stored_bytes(model);
  const OtherBytes other = other_bytes(model);
  Json tensors = Json::array();
  for (const std::string& name : tensor_names(model.spec)) {
    const PackedTensor& tensor = *model.find(name);
    tensors.push_back(
        {{"name", name}, {"shape", tensor.shape}, {"codec", codec_text(tensor)}, {"bits", bits_of(tensor)}, {"bytes", tensor.bytes()}});
    if (const int precision = activation_bits_of(tensor)) tensors.back()["activation_bits"] = precision;
  }
  return {{"source", model.source},
          {"format", model.format},
          {"family", model.spec.family},
          {"weights", counts.all},
          {"weights_linears", counts.linears},
          {"bytes", bytes.all},
          {"bytes_linears", bytes.linears},
          {"bytes_signs", other.signs},
          {"bytes_tables", other.tables},
          {"bytes_rest", other.rest},
          {"file_bytes", model.file_bytes},
          {"tensors", tensors}};
}

Status verify(const Model& model, const std::string& path) {
  if (!is_artifact(model.config)) return bad_input("{}: no artifact of tq, so it has no hashes to be checked", path);
  return verify_artifact(path);
}

Status act(const Flags& flags, const CLI::App& app) {
  TQ_TRY(goes_with(app, {"--threads", "--isa", "--backend", "--gpus", "--split"}, "--plan", flags.plan));
  TQ_ASSIGN(const Model model, load_model(flags.model));
  if (flags.verify) TQ_TRY(verify(model, flags.model));
  if (flags.json) {
    Json facts = inspect_json(model);
    if (flags.verify) facts["verified"] = true;
    fmt::print("{}\n", json_text(facts, 2));
    return {};
  }
  if (flags.verify) fmt::print("{}: all weights are what was written\n", flags.model);
  if (flags.plan) return print_plan(model, flags);
  print_tensors(model);
  print_totals(model);
  return {};
}

}  // namespace

Command add_inspect(CLI::App& root) {
  CLI::App* app = root.add_subcommand("inspect", "Print what is in a model");
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "Artifact, Hugging Face directory or GGUF file")->required();
  CLI::Option* plan = app->add_flag("--plan", flags->plan, "Print the kernels that would run");
  app->add_flag("--verify", flags->verify, "Read every byte of an artifact's weights and compare with their hashes");
  app->add_flag("--json", flags->json, "Print facts as JSON")->excludes(plan);
  add_compute_flags(*app, flags->compute);
  return {app, [flags, app] { return act(*flags, *app); }};
}

}  // namespace tq::cli
