// Attention of a batch of stretches over keys and values that are stored already, in pages in mixed order.
#pragma once

#include <numeric>
#include <utility>

#include "kernels/matrices.h"

namespace tq {

struct PromptCase {
  KvType type = KvType::kF16;
  int64_t heads = 1, kv_heads = 1, dim = 64, window = 0;
  float softcap = 0.0f;
  std::vector<std::pair<int64_t, int64_t>> stretches;  // positions before, tokens
  Precision precision = Precision::kFloat;
  int64_t page = 32;
};

// [T, heads * dim]
inline std::vector<float> prompt_attention(Backend& backend, const PromptCase& c) {
  const int64_t width = c.kv_heads * c.dim, stride = (c.heads + 1) * c.dim;
  int64_t pages = 0, stored = 0, tokens = 0;
  for (const auto& [past, count] : c.stretches) pages += (past + count + c.page - 1) / c.page, stored += past + count, tokens += count;
  int64_t step = 7;  // page i of the batch is i * step modulo their number
  while (std::gcd(step, pages) != 1) ++step;
  std::vector<Memory> tables;
  std::vector<Stretch> whole, now;
  int64_t next = 0;
  for (const auto& [past, count] : c.stretches) {
    std::vector<int32_t> own;
    for (int64_t at = 0; at < past + count; at += c.page) own.push_back(static_cast<int32_t>(next++ * step % pages));
    tables.push_back(backend.allocate(own.size() * sizeof(int32_t)).value());
    backend.upload(tables.back().as<int32_t>(), own.data(), own.size() * sizeof(int32_t));
    whole.push_back({.tokens = past + count, .pages = tables.back().as<const int32_t>()});
    now.push_back({.tokens = count, .first_position = past, .pages = tables.back().as<const int32_t>()});
  }
  const auto side = static_cast<uint64_t>(pages * c.page * c.kv_heads * kv_row_bytes(c.type, c.dim));
  const Memory keys = backend.allocate(side).value(), values = backend.allocate(side).value();
  const std::vector<uint8_t> nothing(side, 0xff);  // what was never stored is no number
  backend.upload(keys.as<uint8_t>(), nothing.data(), side);
  backend.upload(values.as<uint8_t>(), nothing.data(), side);
  const KvView kv{c.type, keys.as<std::byte>(), values.as<std::byte>(), c.kv_heads, pages * c.page, c.dim, c.page};
  Floats key(backend, gaussian(stored * width, 21)), value(backend, gaussian(stored * width, 22)),
      query(backend, gaussian(tokens * stride, 23)),
      output(backend, std::vector<float>(static_cast<size_t>(tokens * c.heads * c.dim), NAN));
  backend.kv_store({.key = key.data(), .value = value.data(), .stretches = whole, .stride = width, .kv = kv});
  backend.attend({.query = query.data(),
                  .output = output.data(),
                  .stretches = now,
                  .heads = c.heads,
                  .stride = stride,
                  .kv = kv,
                  .window = c.window,
                  .scale = 2.0f / std::sqrt(static_cast<float>(c.dim)),
                  .softcap = c.softcap,
                  .precision = c.precision});
  return output.values();
}

}  // namespace tq
