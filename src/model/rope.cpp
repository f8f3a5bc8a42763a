#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tq {
namespace {

constexpr double kMaxContext = 1e9;

std::vector<double> base_frequencies(double theta, int64_t rotary_dim) {
  std::vector<double> frequencies(static_cast<size_t>(rotary_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  return frequencies;
}

std::vector<float> to_floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

// Long wavelengths are divided by the factor, short ones kept, those between interpolated.
Result<std::vector<double>> scale_llama3(std::vector<double> frequencies, const JsonReader& scaling) {
  TQ_ASSIGN(const double factor, scaling.number("factor"));
  TQ_ASSIGN(const double low, scaling.number("low_freq_factor"));
  TQ_ASSIGN(const double high, scaling.number("high_freq_factor"));
  TQ_ASSIGN(const double original, scaling.number("original_max_position_embeddings"));
  if (!(factor > 0 && high > low && original > 0)) return bad_input("{}: inconsistent llama3 rope scaling", scaling.where());
  for (double& frequency : frequencies) {
    const double turns = original * frequency / (2 * std::numbers::pi);
    const double smooth = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    frequency *= (1 - smooth) / factor + smooth;
  }
  return frequencies;
}

double yarn_magnitude(double factor, double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0; }

// Dimensions that turn more than beta_fast times within the original context are kept, those below beta_slow divided by the factor.
Result<std::vector<double>> scale_yarn(std::vector<double> frequencies, const JsonReader& scaling, double theta, const RopeRequest& request,
                                       float* magnitude) {
  TQ_ASSIGN(const double factor, scaling.number("factor"));
  TQ_ASSIGN(const double fast, scaling.number_or("beta_fast", 32.0));
  TQ_ASSIGN(const double slow, scaling.number_or("beta_slow", 1.0));
  TQ_ASSIGN(const double original, scaling.number_or("original_max_position_embeddings", static_cast<double>(request.context)));
  TQ_ASSIGN(const double mscale, scaling.number_or("mscale", 0.0));
  TQ_ASSIGN(const double mscale_all, scaling.number_or("mscale_all_dim", 0.0));
  TQ_ASSIGN(const bool truncate, scaling.boolean_or("truncate", true));
  if (!(factor > 0 && fast > 0 && slow > 0 && original > 0 && theta > 1))
    return bad_input("{}: inconsistent yarn rope scaling", scaling.where());
  const double fallback =
      mscale != 0 && mscale_all != 0 ? yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all) : yarn_magnitude(factor, 1.0);
  TQ_ASSIGN(const double attention_factor, scaling.number_or("attention_factor", fallback));
  *magnitude = static_cast<float>(attention_factor);
  const auto dim = static_cast<double>(request.rotary_dim);
  const auto dimension_of = [&](double turns) { return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta)); };
  double low = dimension_of(fast);
  double high = dimension_of(slow);
  if (truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] *= ramp / factor + (1 - ramp);
  }
  return frequencies;
}

Result<std::vector<float>> divide_by_list(const std::vector<double>& frequencies, const JsonReader& scaling, const char* key) {
  const Json* list = scaling.find(key);
  if (!list || !list->is_array() || list->size() != frequencies.size())
    return bad_input("{}: '{}' should be a list of {} numbers", scaling.where(), key, frequencies.size());
  std::vector<float> out;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const Json& factor = (*list)[i];
    if (!factor.is_number() || !(factor.get<double>() > 0)) return bad_input("{}: '{}' should hold positive numbers", scaling.where(), key);
    out.push_back(static_cast<float>(frequencies[i] / factor.get<double>()));
  }
  return out;
}

Result<Rope> longrope(const std::vector<double>& frequencies, const JsonReader& config, const JsonReader& scaling,
                      const RopeRequest& request) {
  Rope rope;
  TQ_ASSIGN(const int64_t fallback, config.integer_or("original_max_position_embeddings", request.context, 1, int64_t{1} << 40));
  TQ_ASSIGN(rope.original_context, scaling.integer_or("original_max_position_embeddings", fallback, 1, int64_t{1} << 40));
  const double ratio = static_cast<double>(request.context) / static_cast<double>(rope.original_context);
  TQ_ASSIGN(const double factor, scaling.number_or("factor", ratio));
  const double magnitude = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(rope.original_context)));
  TQ_ASSIGN(const double attention_factor, scaling.number_or("attention_factor", magnitude));
  rope.magnitude = static_cast<float>(attention_factor);
  TQ_ASSIGN(rope.inv_freq, divide_by_list(frequencies, scaling, "short_factor"));
  TQ_ASSIGN(rope.long_inv_freq, divide_by_list(frequencies, scaling, "long_factor"));
  return rope;
}

// The object that holds the rope settings: rope_parameters or one of its entries (v5), else rope_scaling (v4), else nothing.
const Json* scaling_object(const JsonReader& config, const RopeRequest& request, bool* is_v5) {
  const Json* parameters = config.find("rope_parameters");
  *is_v5 = parameters && parameters->is_object();
  if (!*is_v5) return request.ignore_v4_scaling ? nullptr : config.find("rope_scaling");
  const auto entry = parameters->find(request.attention_type);
  return entry != parameters->end() && entry->is_object() ? &*entry : parameters;
}

}  // namespace

Result<Rope> parse_rope(const JsonReader& config, const RopeRequest& request) {
  static const Json kNothing = Json::object();
  bool is_v5 = false;
  const Json* object = scaling_object(config, request, &is_v5);
  if (object && !object->is_object()) return bad_input("{}: 'rope_scaling' should be an object or null", config.where());
  const JsonReader scaling(object ? *object : kNothing, config.where() + (is_v5 ? " rope_parameters" : " rope_scaling"));
  TQ_ASSIGN(const double config_theta, config.number_or(request.theta_key, request.default_theta));
  TQ_ASSIGN(const double theta, is_v5 ? scaling.number_or("rope_theta", config_theta) : Result<double>(config_theta));
  if (!(theta > 0 && theta < 1e15) || request.rotary_dim <= 0 || request.rotary_dim % 2 != 0 ||
      static_cast<double>(request.context) > kMaxContext)
    return bad_input("{}: rope base {} over {} dimensions makes no sense", config.where(), theta, request.rotary_dim);
  TQ_ASSIGN(const std::string old_type, scaling.string_or("type", "default"));
  TQ_ASSIGN(const std::string type, scaling.string_or("rope_type", old_type));
  const std::vector<double> frequencies = base_frequencies(theta, request.rotary_dim);
  Rope rope;
  if (type == "default" || type == "mrope") {
    rope.inv_freq = to_floats(frequencies);
  } else if (type == "linear") {
    TQ_ASSIGN(const double factor, scaling.number("factor"));
    if (!(factor > 0)) return bad_input("{}: 'factor' should be positive", scaling.where());
    std::vector<double> scaled = frequencies;
    for (double& frequency : scaled) frequency /= factor;
    rope.inv_freq = to_floats(scaled);
  } else if (type == "llama3") {
    TQ_ASSIGN(const std::vector<double> scaled, scale_llama3(frequencies, scaling));
    rope.inv_freq = to_floats(scaled);
  } else if (type == "yarn") {
    TQ_ASSIGN(const std::vector<double> scaled, scale_yarn(frequencies, scaling, theta, request, &rope.magnitude));
    rope.inv_freq = to_floats(scaled);
  } else if (type == "longrope" || type == "su") {
    return longrope(frequencies, config, scaling, request);
  } else {
    return bad_input("{}: rope type '{}' is not supported (default, linear, llama3, yarn, longrope are)", scaling.where(), type);
  }
  return rope;
}

}  // namespace tq
