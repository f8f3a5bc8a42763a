// Sequences of different lengths in one batch, their pages mixed up, for comparison with each alone.
#pragma once

#include "kernels/matrices.h"

namespace tq {

// What rotate_store_attend gives for a batch of a prompt, a piece of a prompt and single tokens: [T, heads * dim]. In one call with pages
// in some order, or a call a sequence with pages of its own in order.
class PagedAttention {
 public:
  PagedAttention(Backend& backend, KvType type, int64_t window, bool only_decodes, Precision precision = Precision::kInt8)
      : backend_(backend), type_(type), window_(window), precision_(precision), lengths_(only_decodes ? decodes() : mixed()) {}

  std::vector<float> together() {
    const View view(*this, kPages);
    std::vector<std::vector<int32_t>> pages;
    std::vector<Memory> tables;
    std::vector<Stretch> before, now;
    int32_t next = 0;
    for (const Length& length : lengths_) {
      std::vector<int32_t>& own = pages.emplace_back();
      for (int64_t at = 0; at < length.past + length.tokens; at += kPage, ++next) own.push_back(next * 7 % kPages);
      tables.push_back(backend_.allocate(own.size() * sizeof(int32_t)).value());
      backend_.upload(tables.back().as<int32_t>(), own.data(), own.size() * sizeof(int32_t));
      const auto* table = tables.back().as<const int32_t>();
      before.push_back({.tokens = length.past, .pages = table});
      now.push_back({.tokens = length.tokens, .first_position = length.past, .pages = table});
    }
    TQ_CHECK(next <= kPages);
    return run(view.kv, before, now, 0);
  }

  std::vector<float> one_by_one() {
    std::vector<float> all;
    int64_t row = 0;
    for (const Length& length : lengths_) {
      const View view(*this, kPages);
      const std::vector<Stretch> before = {{.tokens = length.past}}, now = {{.tokens = length.tokens, .first_position = length.past}};
      const std::vector<float> own = run(view.kv, before, now, row);
      all.insert(all.end(), own.begin(), own.end());
      row += length.past + length.tokens;
    }
    return all;
  }

 private:
  static constexpr int64_t kHeads = 4, kKvHeads = 2, kDim = 40, kPage = 8, kPages = 61;
  struct Length {
    int64_t past, tokens;
  };
  static std::vector<Length> mixed() { return {{0, 37}, {21, 1}, {70, 1}, {30, 12}, {0, 1}, {8, 3}}; }
  static std::vector<Length> decodes() { return {{21, 1}, {150, 1}, {0, 1}, {7, 1}, {8, 1}}; }

  struct View {
    Memory keys, values;
    KvView kv;
    View(const PagedAttention& of, int64_t pages) {
      const auto side = static_cast<uint64_t>(pages * kPage * kKvHeads * kv_row_bytes(of.type_, kDim));
      keys = of.backend_.allocate(side).value(), values = of.backend_.allocate(side).value();
      kv = {of.type_, keys.as<std::byte>(), values.as<std::byte>(), kKvHeads, pages * kPage, kDim, kPage};
    }
  };

  // first_row: of the sequences' tokens in the random values.
  std::vector<float> run(const KvView& kv, const std::vector<Stretch>& before, const std::vector<Stretch>& now, int64_t first_row) {
    const int64_t width = kKvHeads * kDim;
    const std::vector<float> stored = gaussian(kRows * width, 8), other = gaussian(kRows * width, 9),
                             asked = gaussian(kRows * kHeads * kDim, 10);
    std::vector<float> past_key, past_value, key, value, query;
    const auto append = [](std::vector<float>& to, const std::vector<float>& from, int64_t row, int64_t count, int64_t columns) {
      to.insert(to.end(), from.begin() + row * columns, from.begin() + (row + count) * columns);
    };
    for (size_t i = 0; i < now.size(); ++i) {
      append(past_key, stored, first_row, before[i].tokens, width);
      append(past_value, other, first_row, before[i].tokens, width);
      first_row += before[i].tokens;
      append(key, stored, first_row, now[i].tokens, width);
      append(value, other, first_row, now[i].tokens, width);
      append(query, asked, first_row, now[i].tokens, kHeads * kDim);
      first_row += now[i].tokens;
    }
    TQ_CHECK(first_row <= kRows);
    past_key.resize(past_key.size() + 1), past_value.resize(past_value.size() + 1);
    Floats old_key(backend_, past_key), old_value(backend_, past_value), new_key(backend_, key), new_value(backend_, value),
        new_query(backend_, query), output(backend_, std::vector<float>(query.size(), NAN));
    backend_.kv_store({.key = old_key.data(), .value = old_value.data(), .stretches = before, .stride = width, .kv = kv});
    const std::vector<float> inv_freq = {1.0f, 0.3f, 0.1f, 0.01f};
    const RotaryArgs rotate_query{
        .values = new_query.data(), .stretches = now, .heads = kHeads, .head_dim = kDim, .stride = kHeads * kDim, .inv_freq = inv_freq};
    RotaryArgs rotate_key = rotate_query;
    rotate_key.values = new_key.data(), rotate_key.heads = kKvHeads, rotate_key.stride = width;
    backend_.rotate_store_attend(rotate_query, rotate_key,
                                 {.key = new_key.data(), .value = new_value.data(), .stretches = now, .stride = width, .kv = kv},
                                 {.query = new_query.data(),
                                  .output = output.data(),
                                  .stretches = now,
                                  .heads = kHeads,
                                  .stride = kHeads * kDim,
                                  .kv = kv,
                                  .window = window_,
                                  .scale = 0.2f,
                                  .softcap = window_ ? 5.0f : 0.0f,
                                  .precision = precision_});
    return output.values();
  }

  static constexpr int64_t kRows = 300;
  Backend& backend_;
  KvType type_;
  int64_t window_;
  Precision precision_;
  std::vector<Length> lengths_;
};

}  // namespace tq
