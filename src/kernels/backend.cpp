#include "kernels/backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tq {

int64_t kv_row_bytes(KvType type, int64_t head_dim) {
  switch (type) {
    case KvType::kF32: return head_dim * 4;
    case KvType::kF16: return (head_dim * 2 + 3) / 4 * 4;
    case KvType::kQ8: return (head_dim + 3) / 4 * 4 + 4;
  }
  __builtin_unreachable();
}

std::string_view kv_type_name(KvType type) {
  switch (type) {
    case KvType::kF32: return "f32";
    case KvType::kF16: return "f16";
    case KvType::kQ8: return "q8";
  }
  __builtin_unreachable();
}

Result<Memory> Backend::allocate(uint64_t bytes) {
  if (bytes == 0) return Memory();
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return fail(ErrorCode::kNoResource, "the machine has no {:.2f} GB of memory left", static_cast<double>(bytes) / 1e9);
  return Memory(static_cast<std::byte*>(memory), bytes, [bytes](std::byte* data) { munmap(data, bytes); });
}

void Backend::upload(void* to, const void* host, uint64_t bytes) { copy(to, host, bytes); }
void Backend::download(void* host, const void* from, uint64_t bytes) { copy(host, from, bytes); }
void Backend::copy(void* to, const void* from, uint64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void Backend::pass(const PassArgs& args, const std::function<void()>& enqueue) {
  const PassMode mode = pass_mode(args);
  begin_pass(args, mode);
  if (mode != PassMode::kRepeat) enqueue();
  if (mode == PassMode::kRecord && !end_recording()) {
    begin_pass(args, PassMode::kEnqueue);
    enqueue();
  }
  end_pass();
}

void Backend::softcap(float* values, int64_t count, float cap) {
  for (int64_t i = 0; i < count; ++i) values[i] = cap * std::tanh(values[i] / cap);
}

void Backend::zero(float* values, int64_t count) { std::fill_n(values, count, 0.0f); }

void Backend::gather(const RowsArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) std::copy_n(args.input + args.row[i] * args.width, args.width, args.output + i * args.width);
}

void Backend::scatter_add(const RowsArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const float weight = args.weight ? args.weight[i] : 1.0f;
    for (int64_t k = 0; k < args.width; ++k) args.output[args.row[i] * args.width + k] += weight * args.input[i * args.width + k];
  }
}

int32_t Backend::argmax(const float* values, int64_t count) {
  return static_cast<int32_t>(std::max_element(values, values + count) - values);
}

void Backend::rank(const RankArgs& args) {
  std::vector<float> row(static_cast<size_t>(args.width));
  std::vector<Ranked> all(row.size());
  for (size_t t = 0; t < args.states.size(); ++t) {
    download(row.data(), args.values + static_cast<int64_t>(t) * args.width, row.size() * sizeof(float));
    const bool is_finite = std::all_of(row.begin(), row.end(), [](float value) { return value < std::numeric_limits<float>::infinity(); });
    args.states[t] = is_finite ? RankState::kRanked : RankState::kNotFinite;
    if (!is_finite) continue;
    for (size_t i = 0; i < row.size(); ++i) all[i] = {row[i] + 0.0f, static_cast<int32_t>(i)};
    std::partial_sort(all.begin(), all.begin() + args.count, all.end(),
                      [](const Ranked& a, const Ranked& b) { return a.value != b.value ? a.value > b.value : a.index < b.index; });
    std::copy_n(all.begin(), args.count, args.ranked + static_cast<int64_t>(t) * args.count);
  }
}

void Backend::fused_linear(const FusedLinearArgs& args) {
  if (args.norm) norm(*args.norm);
  if (args.gated) gated(*args.gated);
  linear(args.linear);
  if (!args.sum) return;
  const LinearJob& job = args.linear.jobs[0];
  add(args.sum, job.output, args.linear.tokens * job.matrix->rows());
}

void Backend::rotate_and_store(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store) {
  rotary(query);
  rotary(key);
  kv_store(store);
}

void Backend::rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& args) {
  rotate_and_store(query, key, store);
  attend(args);
}

void embed_rows(const EmbedArgs& args, ThreadPool& threads) {
  const int64_t width = args.table->columns();
  threads.run(static_cast<int64_t>(args.tokens.size()), 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      decode_rows(*args.table, args.tokens[static_cast<size_t>(t)], 1, args.output + t * width);
      for (int64_t i = 0; i < width; ++i) args.output[t * width + i] *= args.scale;
    }
  });
}

}  // namespace tq
