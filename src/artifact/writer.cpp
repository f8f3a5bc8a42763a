#include "artifact/writer.h"

#include <filesystem>
#include <optional>

#include "artifact/format.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/output_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::string> kMetadata = {{"format", "pt"}};

std::vector<safetensors::TensorInfo> infos(const std::vector<PendingArray>& arrays) {
  std::vector<safetensors::TensorInfo> out;
  for (const PendingArray& array : arrays) out.push_back(array.info);
  return out;
}

uint64_t bytes_of(const safetensors::TensorInfo& info) { return static_cast<uint64_t>(element_count(info.shape)) * dtype_size(info.dtype); }

// The order that safetensors::order_for_alignment asks for.
void order(std::vector<PendingArray>& arrays) {
  std::vector<safetensors::TensorInfo> wanted = infos(arrays);
  safetensors::order_for_alignment(wanted);
  std::map<std::string, PendingArray> by_name;
  for (PendingArray& array : arrays) by_name.emplace(array.info.name, std::move(array));
  arrays.clear();
  for (const auto& info : wanted) arrays.push_back(std::move(by_name.at(info.name)));
}

std::string index_text(const ShardPlan& plan) {
  uint64_t total = 0;
  Json map = Json::object();
  for (size_t i = 0; i < plan.size(); ++i) {
    for (const PendingArray& array : plan[i]) {
      total += bytes_of(array.info);
      append_member(map, array.info.name, shard_name(i, plan.size()));
    }
  }
  return Json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n";
}

}  // namespace

PendingArray pending(std::string name, TensorView view, std::shared_ptr<const void> owner) {
  return {{std::move(name), view.dtype, view.shape},
          [view, owner = std::move(owner)](const std::function<Status(std::span<const std::byte>)>& sink) { return sink(view.span()); }};
}

ShardPlan plan_shards(std::vector<PendingArray> arrays, uint64_t shard_bytes) {
  ShardPlan plan;
  uint64_t filled = 0;
  for (PendingArray& array : arrays) {
    const uint64_t bytes = bytes_of(array.info);
    if (plan.empty() || (filled > 0 && filled + bytes > shard_bytes)) plan.emplace_back(), filled = 0;
    filled += bytes;
    plan.back().push_back(std::move(array));
  }
  for (auto& shard : plan) order(shard);
  return plan;
}

uint64_t shards_size(const ShardPlan& plan) {
  uint64_t total = plan.size() > 1 ? index_text(plan).size() : 0;
  for (const auto& shard : plan) total += safetensors::Writer::file_size(infos(shard), kMetadata);
  return total;
}

Result<std::map<std::string, std::string>> write_shards(const std::string& directory, const ShardPlan& plan) {
  std::map<std::string, std::string> hashes;
  for (size_t i = 0; i < plan.size(); ++i) {
    const std::string name = shard_name(i, plan.size()), path = directory + "/" + name;
    TQ_ASSIGN(safetensors::Writer writer, safetensors::Writer::create(path, infos(plan[i]), kMetadata));
    for (const PendingArray& array : plan[i]) TQ_TRY(array.write([&](std::span<const std::byte> piece) { return writer.append(piece); }));
    TQ_TRY(writer.finish());
    TQ_ASSIGN(const std::shared_ptr<const MappedFile> written, MappedFile::open(path));
    hashes[name] = hex64(hash64(written->bytes()));
  }
  if (plan.size() > 1) {
    const std::string text = index_text(plan);
    TQ_TRY(write_file(directory + "/model.safetensors.index.json", text));
    hashes["model.safetensors.index.json"] = hex64(hash64(std::as_bytes(std::span<const char>(text))));
  }
  return hashes;
}

std::string partial_directory(const std::string& final_directory) {
  std::string name = final_directory;
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  return name + ".partial";
}

bool is_vacant(const std::string& partial, const std::string& marker) {
  std::error_code error, ignored;
  for (auto it = fs::directory_iterator(partial, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    if (it->path().filename() == marker) continue;
    if (!it->is_directory(ignored) || !fs::is_empty(it->path(), ignored)) return false;
  }
  return !error;
}

Result<LockedFile> claim_partial(const std::string& partial, const std::string& marker) {
  std::error_code error;
  fs::create_directories(partial, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be created: {}", partial, error.message());
  const std::string path = partial + "/" + marker;
  TQ_ASSIGN(std::optional<LockedFile> there, LockedFile::open(path));
  std::string text;
  if (there) {
    TQ_ASSIGN(text, there->text());
  }
  if (text.empty() && !is_vacant(partial, marker))
    return bad_usage("{}: what is in it does not say which run it belongs to; remove it, or, if it is complete but for its name, rename it",
                     partial);
  if (there) return std::move(*there);
  return LockedFile::create(path);
}

bool holds_job(const std::string& partial) {
  std::error_code error;
  for (const char* name : {kJobFile, kJobSteps, kJobDone, "turboquant.json"})
    if (fs::exists(partial + "/" + name, error)) return true;
  return false;
}

Status publish(const std::string& final_directory) {
  std::error_code error;
  fs::rename(partial_directory(final_directory), final_directory, error);
  if (error) return fail(ErrorCode::kFailed, "{}: cannot be put in place: {}", final_directory, error.message());
  return {};
}

}  // namespace tq
