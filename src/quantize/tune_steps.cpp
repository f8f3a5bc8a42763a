#include "quantize/tune_steps.h"

#include <algorithm>

#include "base/float16.h"
#include "base/json_text.h"

namespace tq {
namespace {

constexpr const char* kStateStep = "tuning-state";
constexpr const char* kLosses = "losses";
constexpr const char* kHeldOut = "held_out";
constexpr const char* kDomains = "domains";
constexpr const char* kBestStep = "best_step";

JobFolder::Array array_of(const std::string& name, const std::vector<float>& values, Shape shape = {}) {
  if (shape.empty()) shape = {static_cast<int64_t>(values.size())};
  return {{name, DType::kF32, std::move(shape)}, std::as_bytes(std::span<const float>(values))};
}

Json held_out_json(const std::vector<TunePoint>& points) {
  Json out = Json::array();
  for (const TunePoint& point : points) out.push_back({{"step", point.step}, {"kl", point.domain}});
  return out;
}

std::vector<TunePoint> held_out_of(const Json& json) {
  std::vector<TunePoint> out;
  for (const Json& point : json) out.push_back({point.at("step").get<int64_t>(), point.at("kl").get<std::vector<double>>()});
  return out;
}

// Doubles go through JSON unchanged.
using Metadata = std::map<std::string, std::string>;
Metadata metadata_of(const TuneState& state, const TuningText& text) {
  return {{kLosses, json_text(state.losses)},
          {kHeldOut, json_text(held_out_json(state.held_out))},
          {kDomains, json_text(text.domains)},
          {kBestStep, std::to_string(state.best_step)}};
}

// What `read` makes of the JSON under a key; nlohmann throws where the JSON is of another shape.
template <typename Read>
auto read_metadata(const safetensors::Archive& archive, const char* key, const Read& read) -> Result<decltype(read(Json()))> {
  const auto found = archive.metadata().find(key);
  if (found != archive.metadata().end()) {
    TQ_ASSIGN(const Json json, parse_json(found->second, key));
    try {
      return read(json);
    } catch (const Json::exception&) {
    }
  }
  return bad_input("an unfinished run lacks '{}' of its tuning; remove it and begin again", key);
}

template <typename T>
Result<T> metadata_as(const safetensors::Archive& archive, const char* key) {
  return read_metadata(archive, key, [](const Json& json) { return json.get<T>(); });
}

Status save_state(JobFolder& folder, const TuneState& state, const TuningText& text) {
  return folder.save_step(kStateStep,
                          {array_of("theta", state.theta), array_of("best", state.best), array_of("first", state.adam.first),
                           array_of("second", state.adam.second)},
                          metadata_of(state, text));
}

Status load_state(const JobFolder& folder, TuneState& state) {
  TQ_ASSIGN(const auto archive, folder.open_step(kStateStep));
  for (const auto& [name, values] :
       {std::pair("theta", &state.theta), {"best", &state.best}, {"first", &state.adam.first}, {"second", &state.adam.second}}) {
    const TensorView* view = archive->find(name);
    if (!view || view->dtype != DType::kF32 || view->count() != static_cast<int64_t>(values->size()))
      return bad_input("an unfinished run lacks '{}' of its tuning; remove it and begin again", name);
    std::copy_n(view->as<float>(), values->size(), values->begin());
  }
  TQ_ASSIGN(state.losses, metadata_as<std::vector<double>>(*archive, kLosses));
  TQ_ASSIGN(state.held_out, read_metadata(*archive, kHeldOut, held_out_of));
  TQ_ASSIGN(state.best_step, metadata_as<int64_t>(*archive, kBestStep));
  state.adam.steps = static_cast<int64_t>(state.losses.size());
  return {};
}

Status save_result(JobFolder& folder, const TuneState& state, const Tunables& tunables, const TuneStepRequest& request) {
  std::vector<std::vector<float>> values;
  std::vector<std::vector<uint16_t>> halves;
  for (const TunableVector& vector : tunables.vectors()) {
    values.push_back(tunables.stored(vector, state.best));
    halves.emplace_back();
    if (vector.kind != TunableKind::kRowScale) continue;
    for (const float scale : values.back()) halves.back().push_back(float_to_f16(scale));
  }
  std::vector<JobFolder::Array> arrays;
  for (size_t i = 0; i < values.size(); ++i) {
    const TunableVector& vector = tunables.vectors()[i];
    if (vector.kind == TunableKind::kRowScale)
      arrays.push_back({{vector.name(), DType::kF16, {vector.count}}, std::as_bytes(std::span<const uint16_t>(halves[i]))});
    else arrays.push_back(array_of(vector.name(), values[i], request.original.find(vector.name())->shape));
  }
  return folder.save_step(kTuneStep, arrays, metadata_of(state, request.text));
}

std::vector<float> untuned_theta(const Tunables& tunables) { return std::vector<float>(static_cast<size_t>(tunables.count())); }

std::string percent(double after, double before) { return fmt::format("{:+.1f} %", 100.0 * (after / before - 1.0)); }

void tell(const TuneState& state, const Context& context) {
  const TunePoint &now = state.held_out.back(), &first = state.held_out.front();
  std::string text = fmt::format("tuning: step {}, KL on held-out text {:.5f}", now.step, now.mean());
  if (now.step > 0) text += fmt::format(" ({}), on the last batches {:.5f}", percent(now.mean(), first.mean()), state.losses.back());
  context.listener.note(text);
}

}  // namespace

double TuneFacts::after() const {
  for (const TunePoint& point : held_out)
    if (point.step == best_step) return point.mean();
  return before();
}

Status tune_steps(const TuneStepRequest& request, Backend& backend, const Context& context, JobFolder& folder) {
  if (folder.has_step(kTuneStep)) return {};
  if (request.text.sequences.empty() || request.text.held_out.empty()) {
    context.listener.warn(fmt::format("no tuning: the calibration text has too few sequences of {} tokens", request.settings.length));
    const Tunables tunables(request.rounded);
    const TuneState untuned{.theta = {}, .adam = Adam(), .losses = {}, .held_out = {}, .best = untuned_theta(tunables), .best_step = 0};
    return save_result(folder, untuned, tunables, request);
  }
  TQ_ASSIGN(Tuner tuner, Tuner::create({request.original, request.rounded, request.text, request.settings}, backend, context));
  TuneState state = tuner.start();
  if (folder.has_step(kStateStep)) TQ_TRY(load_state(folder, state));
  while (!tuner.is_done(state)) {
    const size_t measured = state.held_out.size();
    TQ_TRY(tuner.advance(state));
    if (state.held_out.size() == measured) continue;
    tell(state, context);
    TQ_TRY(save_state(folder, state, request.text));
  }
  return save_result(folder, state, tuner.tunables(), request);
}

Result<TuneFacts> load_tuning(const JobFolder& folder) {
  TQ_ASSIGN(const auto archive, folder.open_step(kTuneStep));
  TuneFacts facts;
  TQ_ASSIGN(facts.losses, metadata_as<std::vector<double>>(*archive, kLosses));
  facts.steps = static_cast<int64_t>(facts.losses.size());
  TQ_ASSIGN(facts.held_out, read_metadata(*archive, kHeldOut, held_out_of));
  TQ_ASSIGN(facts.domains, metadata_as<std::vector<std::string>>(*archive, kDomains));
  TQ_ASSIGN(facts.best_step, metadata_as<int64_t>(*archive, kBestStep));
  return facts;
}

}  // namespace tq
