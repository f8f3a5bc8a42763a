#include "cli/kept_results.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/hash.h"
#include "base/json.h"
#include "base/json_text.h"
#include "base/output_file.h"
#include "io/safetensors.h"

namespace tq::cli {
namespace {

// Positions as arrays of doubles; an empty one has no array.
template <typename P>
auto arrays_of(P& positions) {
  return std::array{std::pair("loss", &positions.loss), std::pair("loss_original", &positions.loss_original),
                    std::pair("kl", &positions.kl), std::pair("kl_float", &positions.kl_float), std::pair("same_top", &positions.same_top)};
}

Json task_json_of(const TaskResult& result) {
  Json metrics = Json::array();
  for (const Metric& metric : result.metrics)
    metrics.push_back({{"name", metric.name},
                       {"values", metric.values},
                       {"chance", metric.chance ? Json(*metric.chance) : Json()},
                       {"counts_flips", metric.counts_flips}});
  return {{"name", result.name}, {"description", result.description}, {"ids", result.ids}, {"groups", result.groups}, {"metrics", metrics}};
}

// Nothing where a figure is not one for each item.
std::optional<TaskResult> task_of_json(const Json& json) {
  TaskResult out{json.at("name").get<std::string>(),
                 json.at("description").get<std::string>(),
                 json.at("ids").get<std::vector<std::string>>(),
                 json.at("groups").get<std::vector<std::string>>(),
                 {}};
  if (out.groups.size() != out.ids.size()) return std::nullopt;
  for (const Json& each : json.at("metrics")) {
    Metric metric{
        each.at("name").get<std::string>(), each.at("values").get<std::vector<double>>(), {}, each.at("counts_flips").get<bool>()};
    if (metric.values.size() != out.ids.size()) return std::nullopt;
    if (!each.at("chance").is_null()) metric.chance = each.at("chance").get<double>();
    out.metrics.push_back(std::move(metric));
  }
  return out;
}

// Whole windows, and of every position each figure or none has it.
bool is_whole(const Positions& positions) {
  const size_t count = positions.loss.size();
  if (count == 0 || positions.per_window <= 0 || count % static_cast<size_t>(positions.per_window) != 0) return false;
  const auto arrays = arrays_of(positions);
  return std::all_of(arrays.begin(), arrays.end(), [&](const auto& each) { return each.second->empty() || each.second->size() == count; });
}

std::optional<TextResult> text_of_archive(const safetensors::Archive& archive) {
  const Json facts = Json::parse(archive.metadata().at("result"));
  TextResult out;
  out.name = facts.at("name").get<std::string>();
  out.window = facts.at("window").get<int64_t>(), out.windows = facts.at("windows").get<int64_t>();
  out.positions.per_window = facts.at("per_window").get<int64_t>();
  for (const auto& [name, values] : arrays_of(out.positions))
    if (const TensorView* view = archive.find(name); view && view->dtype == DType::kF64)
      values->assign(view->as<double>(), view->as<double>() + view->count());
  if (!is_whole(out.positions)) return std::nullopt;
  summarize(out);
  return out;
}

}  // namespace

namespace {

KeptResults::Key unfinished(KeptResults::Key key) {
  key.identity += "\nunfinished";
  return key;
}

}  // namespace

Positions KeptResults::first_windows(const Key& key) const {
  std::optional<TextResult> found = text(unfinished(key));
  return found ? std::move(found->positions) : Positions();
}

Status KeptResults::keep_first(const Key& key, const Positions& positions) const {
  if (positions.loss.empty()) return {};
  TextResult result{.name = key.name, .positions = positions};
  result.windows = static_cast<int64_t>(positions.loss.size()) / positions.per_window;
  return keep(unfinished(key), result);
}

void KeptResults::forget_first(const Key& key) const {
  std::error_code ignored;
  std::filesystem::remove(path(unfinished(key), ".safetensors"), ignored);
}

std::string KeptResults::path(const Key& key, const char* end) const {
  std::string text = key.identity + "\n" + setting_, name = key.name;
  for (char& letter : name)
    if (letter == '/') letter = '_';
  const std::string identity = hex64(hash64(std::as_bytes(std::span<const char>(text))));
  return fmt::format("{}/{}/{}-{}{}", folder_, key.model, name, identity, end);
}

std::optional<TextResult> KeptResults::text(const Key& key) const {
  const auto archive = safetensors::Archive::open_file(path(key, ".safetensors"));
  if (!archive) return std::nullopt;
  try {
    return text_of_archive(**archive);
  } catch (const std::exception&) {  // JSON of another shape
    return std::nullopt;
  }
}

std::optional<TaskResult> KeptResults::task(const Key& key) const {
  const auto json = read_json_file(path(key, ".json"));
  if (!json) return std::nullopt;
  try {
    return task_of_json(*json);
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

Status KeptResults::make_folder(const Key& key) const {
  const std::string folder = folder_ + "/" + key.model;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", folder, error.message());
  return {};
}

Status KeptResults::keep(const Key& key, const TextResult& result) const {
  TQ_TRY(make_folder(key));
  const Json facts = {
      {"name", result.name}, {"window", result.window}, {"windows", result.windows}, {"per_window", result.positions.per_window}};
  std::vector<safetensors::TensorInfo> infos;
  for (const auto& [name, values] : arrays_of(result.positions))
    if (!values->empty()) infos.push_back({name, DType::kF64, {static_cast<int64_t>(values->size())}});
  TQ_ASSIGN(safetensors::Writer writer, safetensors::Writer::create(path(key, ".safetensors"), infos, {{"result", json_text(facts)}}));
  for (const auto& [name, values] : arrays_of(result.positions)) TQ_TRY(writer.append(std::as_bytes(std::span<const double>(*values))));
  return writer.finish();
}

Status KeptResults::keep(const Key& key, const TaskResult& result) const {
  TQ_TRY(make_folder(key));
  return write_file(path(key, ".json"), json_text(task_json_of(result)) + "\n");
}

}  // namespace tq::cli
