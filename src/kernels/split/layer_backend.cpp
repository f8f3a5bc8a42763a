// Layers shared out: every operation is one part's, and what another part has written is fetched when it is read.
#include <algorithm>
#include <initializer_list>

#include "kernels/split/parts_backend.h"
#include "kernels/split/split_backend.h"

namespace tq {
namespace {

class LayerBackend final : public PartsBackend {
 public:
  using PartsBackend::PartsBackend;

  void enter_depth(double depth) override {
    const auto parts = static_cast<double>(regions_.parts());
    part_ = static_cast<size_t>(std::clamp(depth * parts, 0.0, parts - 1));
  }
  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    auto matrix = enter(part_).prepare(tensor, expert);
    enter(0);
    return matrix;
  }
  void download(void* host, const void* from, uint64_t bytes) override {
    const size_t part = holder(from, bytes);
    enter(part).download(host, regions_.at(part, from), bytes);
    enter(0);
  }

  void embed(const EmbedArgs& args) override {
    const auto tokens = static_cast<int64_t>(args.tokens.size());
    overwrite(args.output, tokens * args.table->columns());
    EmbedArgs own = args;
    own.output = at(args.output);
    enter(part_).embed(own);
    wrote(args.output, tokens, args.table->columns());
  }
  void linear(const LinearArgs& args) override { fused_linear({.linear = args}); }
  void fused_linear(const FusedLinearArgs& args) override {
    const int64_t tokens = args.linear.tokens;
    if (args.norm) {
      read(args.norm->input, args.norm->count * args.norm->width);
      overwrite(args.norm->output, args.norm->count * args.norm->width);
    } else if (args.gated) {
      read_rows(args.gated->gate, *args.gated), read_rows(args.gated->up, *args.gated);
      overwrite(args.gated->output, tokens * args.gated->width);
    } else {
      read(args.linear.input, tokens * args.linear.jobs[0].matrix->columns());
    }
    if (args.sum) read(args.sum, tokens * args.linear.jobs[0].matrix->rows());
    for (const LinearJob& job : args.linear.jobs) overwrite(job.output, tokens * job.matrix->rows());
    multiply(args);
    for (const LinearJob& job : args.linear.jobs) wrote(args.sum ? args.sum : job.output, tokens, job.matrix->rows());
  }
  void norm(const NormArgs& args) override {
    read(args.input, args.count * args.width);
    overwrite(args.output, args.count * args.width);
    enter(part_).norm(PartsBackend::at(part_, args));
    wrote(args.output, args.count, args.width);
  }

  void rotary(const RotaryArgs& args) override {
    const int64_t tokens = tokens_of(args.stretches);
    read_rows(args.values, tokens, args.heads * args.head_dim, args.stride);
    enter(part_).rotary(own(args));
    turned(args, tokens);
  }
  void kv_store(const KvStoreArgs& args) override {
    const int64_t tokens = tokens_of(args.stretches), width = args.kv.kv_heads * args.kv.head_dim;
    read_rows(args.key, tokens, width, args.stride), read_rows(args.value, tokens, width, args.stride);
    enter(part_).kv_store(own(args));
    enter(0);
  }
  void attend(const AttendArgs& args) override {
    const int64_t tokens = tokens_of(args.stretches), width = args.heads * args.kv.head_dim;
    read_rows(args.query, tokens, width, args.stride);
    overwrite(args.output, tokens * width);
    enter(part_).attend(own(args));
    wrote(args.output, tokens, width);
  }
  void rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& args) override {
    const int64_t tokens = tokens_of(args.stretches), width = args.heads * args.kv.head_dim, kv_width = args.kv.kv_heads * args.kv.head_dim;
    read_rows(query.values, tokens, width, query.stride);
    read_rows(key.values, tokens, kv_width, key.stride), read_rows(store.value, tokens, kv_width, store.stride);
    overwrite(args.output, tokens * width);
    enter(part_).rotate_store_attend(own(query), own(key), own(store), own(args));
    turned(query, tokens), turned(key, tokens);
    wrote(args.output, tokens, width);
  }

  void gated(const GatedArgs& args) override {
    read_rows(args.gate, args), read_rows(args.up, args);
    overwrite(args.output, args.tokens * args.width);
    enter(part_).gated(PartsBackend::at(part_, args));
    wrote(args.output, args.tokens, args.width);
  }
  void add(float* sum, const float* addend, int64_t count) override {
    const Rows rows = rows_of({sum, addend}, count);
    read(sum, count), read(addend, count);
    overwrite(sum, count);
    enter(part_).add(at(sum), at(addend), count);
    wrote(sum, rows.count, rows.width);
  }
  void softcap(float* values, int64_t count, float cap) override {
    const Rows rows = rows_of({values}, count);
    read(values, count);
    overwrite(values, count);
    enter(part_).softcap(at(values), count, cap);
    wrote(values, rows.count, rows.width);
  }
  void zero(float* values, int64_t count) override {
    overwrite(values, count);
    regions_.each([&](size_t i, Backend& part) { part.zero(regions_.at(i, values), count); });
  }
  void gather(const RowsArgs& args) override {
    spreads_.complete_for(part_, args.input, bytes_behind(args.input));
    overwrite(args.output, args.count * args.width);
    enter(part_).gather(PartsBackend::at(part_, args));
    wrote(args.output, args.count, args.width);
  }
  // The rows that it adds to are known to the device alone: they end with every part.
  void scatter_add(const RowsArgs& args) override {
    complete(args.input, args.count * args.width);
    spreads_.complete(args.output, bytes_behind(args.output));
    regions_.each([&](size_t i, Backend& part) { part.scatter_add(PartsBackend::at(i, args)); });
  }
  int32_t argmax(const float* values, int64_t count) override {
    const size_t part = holder(values, static_cast<uint64_t>(count) * sizeof(float));
    const int32_t index = enter(part).argmax(regions_.at(part, values), count);
    enter(0);
    return index;
  }
  void rank(const RankArgs& args) override {
    const size_t part = holder(args.values, args.states.size() * static_cast<size_t>(args.width) * sizeof(float));
    RankArgs own = args;
    own.values = regions_.at(part, args.values);
    enter(part).rank(own);
    enter(0);
  }

 private:
  template <typename T>
  T* at(T* pointer) const {
    return regions_.at(part_, pointer);
  }
  // The part that has the values; the first where none is known to.
  size_t holder(const void* values, uint64_t bytes) {
    if (const int part = spreads_.holder(values, bytes); part >= 0) return static_cast<size_t>(part);
    spreads_.complete(values, bytes);
    return 0;
  }
  void read(const float* values, int64_t count) { spreads_.complete_for(part_, values, static_cast<uint64_t>(count) * sizeof(float)); }
  void read_rows(const float* values, int64_t tokens, int64_t width, int64_t stride) {
    if (tokens > 0) read(values, (tokens - 1) * stride + width);
  }
  void read_rows(const float* values, const GatedArgs& args) { read_rows(values, args.tokens, args.width, args.stride); }
  // The rows of `count` values that are written where they lie, as the first of these matrices that is known was written; one where none
  // is. Of rows some are sent at a time, and passes are completed by their number.
  struct Rows {
    int64_t count, width;
  };
  Rows rows_of(std::initializer_list<const float*> matrices, int64_t count) const {
    for (const float* values : matrices)
      if (const Spread* spread = spreads_.find_all(values, count)) return {spread->shares.tokens, spread->shares.width};
    return {1, count};
  }
  // After the operation, which is the part's: it alone has these values.
  void wrote(const float* values, int64_t tokens, int64_t width) {
    enter(0);
    overwrite(values, tokens * width);
    Shares shares{tokens, width, std::vector<int64_t>(regions_.parts() + 1, 0)};
    std::fill(shares.bounds.begin() + static_cast<std::ptrdiff_t>(part_) + 1, shares.bounds.end(), width);
    if (tokens * width > 0) spreads_.add(values, std::move(shares));
  }

  // In place: nobody else's any more.
  void turned(const RotaryArgs& args, int64_t tokens) {
    const int64_t count = tokens > 0 ? (tokens - 1) * args.stride + args.heads * args.head_dim : 0;
    if (spreads_.holder(args.values, static_cast<uint64_t>(count) * sizeof(float)) != static_cast<int>(part_)) wrote(args.values, 1, count);
    enter(0);
  }

  RotaryArgs own(const RotaryArgs& args) {
    RotaryArgs out = args;
    out.values = at(args.values), out.stretches = stretches_of(args.stretches, part_);
    return out;
  }
  KvView own(const KvView& kv) const {
    KvView out = kv;
    out.key = at(kv.key), out.value = at(kv.value);
    return out;
  }
  KvStoreArgs own(const KvStoreArgs& args) {
    KvStoreArgs out = args;
    out.key = at(args.key), out.value = at(args.value), out.kv = own(args.kv), out.stretches = stretches_of(args.stretches, part_);
    return out;
  }
  AttendArgs own(const AttendArgs& args) {
    AttendArgs out = args;
    out.query = at(args.query), out.output = at(args.output), out.kv = own(args.kv), out.stretches = stretches_of(args.stretches, part_);
    return out;
  }
  void multiply(const FusedLinearArgs& args) {
    std::vector<LinearJob> jobs(args.linear.jobs.begin(), args.linear.jobs.end());
    for (LinearJob& job : jobs) job.bias = at(job.bias), job.output = at(job.output);
    LinearArgs linear = args.linear;
    linear.input = at(args.linear.input), linear.jobs = jobs;
    FusedLinearArgs out{.linear = linear, .sum = at(args.sum)};
    NormArgs norm;
    GatedArgs gated;
    if (args.norm) norm = PartsBackend::at(part_, *args.norm), out.norm = &norm;
    if (args.gated) gated = PartsBackend::at(part_, *args.gated), out.gated = &gated;
    if (out.norm || out.gated || out.sum) enter(part_).fused_linear(out);
    else enter(part_).linear(linear);
  }

  size_t part_ = 0;  // whose the operations are
};

}  // namespace

std::unique_ptr<Backend> make_layer_backend(std::string name, std::vector<std::unique_ptr<Backend>> parts, std::unique_ptr<Peers> peers) {
  TQ_CHECK(!parts.empty());
  return std::make_unique<LayerBackend>(std::move(name), std::move(parts), std::move(peers));
}

}  // namespace tq
