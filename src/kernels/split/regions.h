// Memory of a split backend: a region of addresses that the caller counts in, and memory of every part behind it.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/split/peers.h"

namespace tq {

class Region {
 public:
  Region(std::byte* begin, uint64_t bytes, int64_t kv_heads) : begin_(begin), bytes_(bytes), kv_heads_(kv_heads) {}

  const std::byte* begin() const { return begin_; }
  const std::byte* end() const { return begin_ + bytes_; }
  uint64_t bytes() const { return bytes_; }
  // Keys and values that are shared out by heads: so many in all; otherwise 0, and every part has the whole region.
  int64_t kv_heads() const { return kv_heads_; }
  // Of bytes of all heads, those of a part's.
  uint64_t share_of(uint64_t bytes, int64_t own_heads) const {
    return kv_heads_ == 0 ? bytes : bytes / static_cast<uint64_t>(kv_heads_) * static_cast<uint64_t>(own_heads);
  }
  std::vector<Memory> whole;    // [parts]
  std::vector<Memory> compact;  // [parts], or empty before it is needed: own columns of what is shared out in the region, rows close up

 private:
  std::byte* begin_;
  uint64_t bytes_;
  int64_t kv_heads_;
};

// Part i's first kv head; for i = parts the number of all.
inline int64_t first_head(int64_t kv_heads, size_t part, size_t parts) {
  return kv_heads * static_cast<int64_t>(part) / static_cast<int64_t>(parts);
}

// The parts, and the regions that they have memory of.
class Regions {
 public:
  Regions(std::vector<std::unique_ptr<Backend>> parts, std::unique_ptr<Peers> peers) : parts_(std::move(parts)), peers_(std::move(peers)) {}

  size_t parts() const { return parts_.size(); }
  Peers& peers() { return *peers_; }
  Backend& part(size_t i) const { return *parts_[i]; }
  // Calls visit(i, backend) for every part, the first one last: it is what others find entered who know of no parts.
  template <typename Visit>
  void each(const Visit& visit) {
    for (size_t i = parts_.size(); i-- > 0;) {
      peers_->enter(i);
      visit(i, *parts_[i]);
    }
  }
  int64_t own_heads(int64_t kv_heads, size_t part) const {
    return first_head(kv_heads, part + 1, parts()) - first_head(kv_heads, part, parts());
  }

  // From now on regions that are created have memory for what is shared out in them from the beginning: Backend::reserve's promise. Those
  // of a single part, and keys and values, need none.
  void reserve_compact() { reserves_compact_ = parts() > 1; }
  // kv_heads: 0, or Region::kv_heads. Errors: kNoResource.
  Result<Region*> create(uint64_t bytes, int64_t kv_heads);
  void remove(const Region& region);
  // The region of a pointer into one, its end included.
  Region& of(const void* pointer) const;
  // Where part i has what the caller's pointer stands for. null: null.
  template <typename T>
  T* at(size_t part, T* pointer) const {
    return reinterpret_cast<T*>(const_cast<std::byte*>(place(part, pointer)));
  }
  // Where part i has its own columns close up. Takes the memory for them if the region has none yet, and ends the program without.
  float* compact(size_t part, const float* pointer);

 private:
  const std::byte* place(size_t part, const void* pointer) const;
  Status allocate_compact(Region& region);

  std::vector<std::unique_ptr<Backend>> parts_;
  std::unique_ptr<Peers> peers_;
  std::map<const std::byte*, std::unique_ptr<Region>> regions_;  // by their begin
  bool reserves_compact_ = false;
};

}  // namespace tq
