#include "kernels/split/regions.h"

#include <sys/mman.h>

#include <algorithm>

namespace tq {

Result<Region*> Regions::create(uint64_t bytes, int64_t kv_heads) {
  // Addresses without memory, so that none of them is another's and nobody reads the host's memory by mistake. A page more: the end is
  // nobody else's either.
  void* const addresses = mmap(nullptr, bytes + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (addresses == MAP_FAILED)
    return fail(ErrorCode::kNoResource, "the machine has no {:.2f} GB of addresses left", static_cast<double>(bytes) / 1e9);
  auto region = std::make_unique<Region>(static_cast<std::byte*>(addresses), bytes, kv_heads);
  Region* const created = region.get();
  regions_[region->begin()] = std::move(region);
  created->whole.resize(parts());
  Status status;
  each([&](size_t i, Backend& part) {
    if (!status) return;
    auto memory = part.allocate(created->share_of(bytes, kv_heads == 0 ? 0 : own_heads(kv_heads, i)));
    if (memory) created->whole[i] = std::move(*memory);
    else status = Unexpected(memory.error());
  });
  if (status && reserves_compact_ && kv_heads == 0) status = allocate_compact(*created);
  if (status) return created;
  remove(*created);
  return Unexpected(status.error());
}

void Regions::remove(const Region& region) {
  const std::byte* const begin = region.begin();
  const uint64_t bytes = region.bytes();
  Region& own = *regions_.at(begin);
  each([&](size_t i, Backend&) {
    own.whole[i] = Memory();
    if (!own.compact.empty()) own.compact[i] = Memory();
  });
  regions_.erase(begin);
  munmap(const_cast<std::byte*>(begin), bytes + 4096);
}

Status Regions::allocate_compact(Region& region) {
  region.compact.resize(parts());
  Status status;
  each([&](size_t i, Backend& backend) {
    if (!status) return;
    auto memory = backend.allocate(region.bytes());
    if (memory) region.compact[i] = std::move(*memory);
    else status = Unexpected(memory.error());
  });
  return status;
}

Region& Regions::of(const void* pointer) const {
  auto next = regions_.upper_bound(static_cast<const std::byte*>(pointer));
  TQ_CHECK(next != regions_.begin());
  Region& region = *std::prev(next)->second;
  TQ_CHECK(static_cast<const std::byte*>(pointer) <= region.end());
  return region;
}

const std::byte* Regions::place(size_t part, const void* pointer) const {
  if (!pointer) return nullptr;
  const Region& region = of(pointer);
  const auto skipped = static_cast<uint64_t>(static_cast<const std::byte*>(pointer) - region.begin());
  return region.whole[part].as<std::byte>() + region.share_of(skipped, own_heads(region.kv_heads(), part));
}

float* Regions::compact(size_t part, const float* pointer) {
  Region& region = of(pointer);
  TQ_CHECK(region.kv_heads() == 0);
  if (region.compact.empty()) {
    TQ_CHECK(allocate_compact(region).has_value());
    peers_->enter(part);
  }
  return region.compact[part].as<float>() + (pointer - reinterpret_cast<const float*>(region.begin()));
}

}  // namespace tq
