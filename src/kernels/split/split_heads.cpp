#include "kernels/split/split_heads.h"

#include <algorithm>

namespace tq {
namespace {

// The spread, if it has borders between heads alone.
std::optional<Spread> of_heads(const Spread& spread, int64_t head_dim) {
  const auto& bounds = spread.shares.bounds;
  const bool is_whole = std::all_of(bounds.begin(), bounds.end(), [&](int64_t bound) { return bound % head_dim == 0; });
  return is_whole ? std::optional(spread) : std::nullopt;
}

}  // namespace

std::optional<Spread> SplitHeads::whole(const float* values, int64_t count, int64_t width) const {
  for (const Spread& each : spreads_.all())
    if (each.values == values && each.shares.tokens * each.shares.width == count * width) return of_heads(each, width);
  return std::nullopt;
}

std::optional<Spread> SplitHeads::find(const float* values, int64_t tokens, int64_t heads, int64_t head_dim, int64_t stride) const {
  if (stride != heads * head_dim) return std::nullopt;
  for (const Spread& each : spreads_.all()) {
    if (values < each.values || values + tokens * stride > each.end() || each.shares.width != stride) continue;
    return (values - each.values) % stride == 0 ? of_heads(each, head_dim) : std::nullopt;
  }
  return std::nullopt;
}

HeadRows SplitHeads::rows(const float* values, std::span<const Stretch> stretches, int64_t heads, const KvView& kv, int64_t stride) const {
  HeadRows rows{values, tokens_of(stretches), heads * kv.head_dim, stride, std::nullopt};
  auto spread = find(values, rows.tokens, heads, kv.head_dim, stride);
  if (!spread || !are_shared(kv)) return rows;
  for (size_t i = 0; i <= regions_.parts(); ++i)
    if (spread->shares.bounds[i] != skipped(kv, heads, i)) return rows;
  rows.spread = std::move(spread);
  return rows;
}

std::optional<Shares> SplitHeads::output(const AttendArgs& args) const {
  if (!are_shared(args.kv)) return std::nullopt;
  Shares shares{tokens_of(args.stretches), args.heads * args.kv.head_dim, {}};
  for (size_t i = 0; i <= regions_.parts(); ++i) shares.bounds.push_back(skipped(args.kv, args.heads, i));
  return shares;
}

RotaryArgs SplitHeads::own(const RotaryArgs& args, const Spread* spread, std::span<const Stretch> stretches, size_t i) const {
  RotaryArgs own = args;
  own.stretches = stretches;
  if (!spread) {
    own.values = regions_.at(i, args.values);
    return own;
  }
  own.values = own_rows(*spread, args.values, i), own.stride = spread->shares.count(i);
  own.heads = own.stride / args.head_dim;
  return own;
}

KvStoreArgs SplitHeads::own(const KvStoreArgs& args, const Spread* key, const Spread* value, std::span<const Stretch> stretches,
                            size_t i) const {
  KvStoreArgs own = args;
  own.kv = own_kv(args.kv, i), own.stretches = stretches;
  if (key && value) {
    own.key = own_rows(*key, args.key, i), own.value = own_rows(*value, args.value, i), own.stride = key->shares.count(i);
  } else {
    const int64_t before = skipped(args.kv, args.kv.kv_heads, i);
    own.key = regions_.at(i, args.key) + before, own.value = regions_.at(i, args.value) + before;
  }
  return own;
}

AttendArgs SplitHeads::own(const AttendArgs& args, const Spread* query, const std::optional<Shares>& output,
                           std::span<const Stretch> stretches, size_t i) const {
  AttendArgs own = args;
  own.kv = own_kv(args.kv, i), own.stretches = stretches;
  own.heads = args.heads / args.kv.kv_heads * own.kv.kv_heads;
  if (query) own.query = own_rows(*query, args.query, i), own.stride = query->shares.count(i);
  else own.query = regions_.at(i, args.query) + skipped(args.kv, args.heads, i);
  own.output = output ? spreads_.own({args.output, *output}, i) : regions_.at(i, args.output);
  return own;
}

// Where a part's own columns of a token of the spread lie.
float* SplitHeads::own_rows(const Spread& spread, const float* values, size_t i) const {
  return spreads_.own(spread, i) + (values - spread.values) / spread.shares.width * spread.shares.count(i);
}

KvView SplitHeads::own_kv(const KvView& kv, size_t i) const {
  KvView own = kv;
  own.key = regions_.at(i, kv.key), own.value = regions_.at(i, kv.value);
  if (are_shared(kv)) own.kv_heads = regions_.own_heads(kv.kv_heads, i);
  return own;
}

// Floats of a row before a part's own heads, of `heads` in all.
int64_t SplitHeads::skipped(const KvView& kv, int64_t heads, size_t i) const {
  return are_shared(kv) ? first_head(kv.kv_heads, i, regions_.parts()) * (heads / kv.kv_heads) * kv.head_dim : 0;
}

}  // namespace tq
