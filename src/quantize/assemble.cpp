#include "quantize/assemble.h"

#include "artifact/format.h"
#include "base/output_file.h"
#include "codec/e8p/e8p.h"
#include "codec/grid/grid.h"
#include "quantize/card.h"

namespace tq {
namespace {

ShardPlan measured_shards(const Model& model, const QuantizePlan& plan) {
  return plan_shards(artifact_arrays(model, plan, [](const std::string&) { return nullptr; }), plan.options.shard_bytes);
}

// Arrays that quantization makes, by name.
class MadeArrays {
 public:
  void add(const std::shared_ptr<const safetensors::Archive>& step) {
    for (const auto& tensor : step->tensors()) arrays_.emplace(tensor.name, pending(tensor.name, tensor.view, step));
  }
  // The values are to outlive the object.
  void add(const std::string& name, std::span<const float> values) {
    const TensorView view{DType::kF32, {static_cast<int64_t>(values.size())}, reinterpret_cast<const std::byte*>(values.data())};
    arrays_.emplace(name, pending(name, view, nullptr));
  }
  const PendingArray* find(const std::string& name) const {
    const auto found = arrays_.find(name);
    return found == arrays_.end() ? nullptr : &found->second;
  }

 private:
  std::map<std::string, PendingArray> arrays_;
};

Result<std::map<std::string, std::string>> write_weights(const AssembleRequest& request, const std::string& directory) {
  const QuantizePlan& plan = request.plan;
  MadeArrays made;
  for (const auto& step : request.steps) made.add(step);
  for (size_t rate = 0; rate < plan.taps.size(); ++rate)
    made.add(grid::taps_name(static_cast<int>(rate), static_cast<int>(plan.taps[rate].size())), plan.taps[rate]);
  const e8p::Table absolute = e8p::absolute_table(), residual = e8p::residual_table();
  made.add("e8p.absolute", absolute);
  made.add("e8p.residual", residual);
  const ArrayLookup look_up = [&](const std::string& name) { return made.find(name); };
  return write_shards(directory, plan_shards(artifact_arrays(request.model, plan, look_up), plan.options.shard_bytes));
}

// Filled up to the promised size.
Status write_report(const AssembleRequest& request, const std::string& directory) {
  TQ_ASSIGN(std::string page, request.report(directory));
  const uint64_t bytes = report_bytes(request.plan);
  if (page.size() >= bytes) page = "<!doctype html>\n<title>TurboQuant</title>\n<p>tq eval --report writes this page.</p>\n";
  page.resize(bytes - 1, ' ');
  return write_file(directory + "/report.html", page + "\n");
}

}  // namespace

uint64_t planned_bytes(const Model& model, const QuantizePlan& plan) {
  const ShardPlan shards = measured_shards(model, plan);
  uint64_t total = shards_size(shards);
  std::map<std::string, std::string> hashes;
  for (size_t i = 0; i < shards.size(); ++i) hashes[shard_name(i, shards.size())] = std::string(16, '0');
  if (shards.size() > 1) hashes["model.safetensors.index.json"] = std::string(16, '0');
  for (const auto& [name, text] : plan.texts) total += text.size();
  if (plan.options.report) total += report_bytes(plan);
  return total + record_text(model, plan, {.hashes = hashes, .steps = {}}).size();
}

Status assemble(const AssembleRequest& request, const std::string& directory) {
  TQ_ASSIGN(const auto hashes, write_weights(request, directory));
  for (const auto& [name, text] : request.plan.texts) TQ_TRY(write_file(directory + "/" + name, text));
  const RecordFacts facts{hashes, request.facts, request.untuned, request.tuned, origin_of(request.model, request.plan.options)};
  TQ_TRY(write_file(directory + "/turboquant.json", record_text(request.model, request.plan, facts)));
  return request.report ? write_report(request, directory) : Status();
}

}  // namespace tq
