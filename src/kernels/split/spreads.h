// What is shared out at present: matrices of values of which every part has its own columns alone.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels/split/regions.h"

namespace tq {

// values[T, R] in the caller's addresses.
struct Spread {
  const float* values = nullptr;
  Shares shares;

  const float* end() const { return values + shares.tokens * shares.width; }
  bool operator==(const Spread&) const = default;
};

class Spreads {
 public:
  explicit Spreads(Regions& regions) : regions_(regions) {}

  // Where part i has its columns [T, count(i)] of a matrix that is shared out: those of a single token, and all columns of a part that has
  // no others beside it, lie where they belong.
  float* own(const Spread& spread, size_t part) const {
    float* values = const_cast<float*>(spread.values);
    const bool is_in_place = spread.shares.tokens == 1 || spread.shares.is_of_one();
    return is_in_place ? regions_.at(part, values) + spread.shares.bounds[part] : regions_.compact(part, values);
  }
  // The one that begins there, of this width; null: there is none.
  const Spread* find(const float* values, int64_t width) const {
    const auto found =
        std::find_if(all_.begin(), all_.end(), [&](const Spread& each) { return each.values == values && each.shares.width == width; });
    return found == all_.end() ? nullptr : &*found;
  }
  // The one of exactly these values, whatever its width; null: there is none.
  const Spread* find_all(const float* values, int64_t count) const {
    const auto found = std::find_if(all_.begin(), all_.end(), [&](const Spread& each) {
      return each.values == values && each.shares.tokens * each.shares.width == count;
    });
    return found == all_.end() ? nullptr : &*found;
  }
  // Before values are read by who needs all of them: every part has them afterwards.
  void complete(const void* begin, uint64_t bytes) {
    take_out(begin, bytes, [&](const Spread& spread) { gather(spread); });
  }
  // Before values are written, by all parts alike or shared out.
  void overwrite(const void* begin, uint64_t bytes) {
    take_out(begin, bytes, [&](const Spread& spread) {
      const bool is_covered = spread.values >= begin && reinterpret_cast<const std::byte*>(spread.end()) <= end_of(begin, bytes);
      if (!is_covered) gather(spread);
    });
  }
  // Before values are read by part i: it has all of them afterwards.
  void complete_for(size_t part, const void* begin, uint64_t bytes) {
    const auto is_others = [&](const Spread& each) { return each.shares.count(part) < each.shares.width; };
    take_out(
        begin, bytes, [&](const Spread& spread) { gather(spread); }, is_others);
  }
  // The part that has all of these values; -1: not known to be the only one.
  int holder(const void* begin, uint64_t bytes) const {
    int part = -1;
    for (const Spread& each : all_) {
      if (!overlaps(each, begin, bytes)) continue;
      const bool covers = each.values <= begin && reinterpret_cast<const std::byte*>(each.end()) >= end_of(begin, bytes);
      if (!covers || !each.shares.is_of_one() || part >= 0) return -1;
      while (each.shares.count(static_cast<size_t>(++part)) == 0) {
      }
    }
    return part;
  }
  // Values that nobody reads any more.
  void forget(const float* values, int64_t tokens, int64_t width) {
    std::erase_if(all_,
                  [&](const Spread& each) { return each.values == values && each.shares.tokens == tokens && each.shares.width == width; });
  }
  // Those of other numbers of tokens are completed: they are of passes before.
  void complete_others(int64_t tokens) {
    std::vector<Spread> others;
    for (const Spread& each : all_)
      if (each.shares.tokens != tokens) others.push_back(each);
    for (const Spread& each : others) complete(each.values, static_cast<uint64_t>(each.shares.tokens * each.shares.width) * sizeof(float));
  }
  void add(const float* values, Shares shares) { all_.push_back({values, std::move(shares)}); }
  const std::vector<Spread>& all() const { return all_; }
  void set(std::vector<Spread> all) { all_ = std::move(all); }

 private:
  static const std::byte* end_of(const void* begin, uint64_t bytes) { return static_cast<const std::byte*>(begin) + bytes; }

  static bool overlaps(const Spread& each, const void* begin, uint64_t bytes) {
    return static_cast<const void*>(each.values) < end_of(begin, bytes) && static_cast<const void*>(each.end()) > begin;
  }
  static bool is_any(const Spread&) { return true; }
  template <typename Visit, typename Choose = bool (*)(const Spread&)>
  void take_out(const void* begin, uint64_t bytes, const Visit& visit, const Choose& choose = is_any) {
    for (size_t i = 0; i < all_.size();) {
      if (!overlaps(all_[i], begin, bytes) || !choose(all_[i])) {
        ++i;
        continue;
      }
      const Spread spread = std::move(all_[i]);
      all_.erase(all_.begin() + static_cast<std::ptrdiff_t>(i));
      visit(spread);
    }
  }
  void gather(const Spread& spread) {
    std::vector<const float*> from;
    std::vector<float*> to;
    for (size_t i = 0; i < regions_.parts(); ++i) {
      from.push_back(own(spread, i));
      to.push_back(regions_.at(i, const_cast<float*>(spread.values)));
    }
    regions_.peers().gather(spread.shares, from, to);
  }

  Regions& regions_;
  std::vector<Spread> all_;
};

}  // namespace tq
