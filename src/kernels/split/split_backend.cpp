#include "kernels/split/split_backend.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "kernels/split/parts_backend.h"

namespace tq {
namespace {

constexpr int64_t kUnitRows = 32;  // rows are shared out in so many, or more where the codec wants it

class SplitMatrix final : public Matrix {
 public:
  using Matrix::Matrix;

  std::string kernel(int64_t tokens) const override {
    return fmt::format("{}, {} parts", parts[0]->kernel(tokens), bounds.empty() ? 1 : parts.size());
  }
  uint64_t bytes() const override {
    uint64_t total = 0;
    for (const auto& part : parts) total += part && (total == 0 || !bounds.empty()) ? part->bytes() : 0;
    return total;
  }
  bool is_shared() const { return !bounds.empty(); }
  Shares shares(int64_t tokens) const { return {tokens, rows(), bounds}; }

  std::vector<std::unique_ptr<Matrix>> parts;  // null: without rows
  std::vector<int64_t> bounds;                 // of rows; empty: every part has all of them
};

const SplitMatrix& matrix_of(const LinearJob& job) { return static_cast<const SplitMatrix&>(*job.matrix); }

class SplitBackend final : public PartsBackend {
 public:
  using PartsBackend::PartsBackend;

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    const int64_t rows = tensor.shape.size() < 2 ? 0 : tensor.shape[tensor.shape.size() - 2];
    auto matrix = std::make_unique<SplitMatrix>(rows, tensor.columns());
    if (const int64_t unit = cut_unit(tensor); unit > 0) matrix->bounds = bounds_of(rows, std::lcm(unit, kUnitRows));
    matrix->parts.resize(regions_.parts());
    for (size_t i = regions_.parts(); i-- > 0;) {
      TQ_ASSIGN(matrix->parts[i], prepare_part(*matrix, tensor, expert, i));
    }
    return matrix;
  }

  Result<Memory> allocate_heads(uint64_t bytes, int64_t kv_heads) override { return create_region(bytes, kv_heads); }
  Status reserve(const Reservation& bounds) override {
    Status status;
    regions_.each([&](size_t i, Backend& part) {
      if (status) status = part.reserve(part_bounds(bounds, i));
    });
    return status;
  }
  void download(void* host, const void* from, uint64_t bytes) override {
    spreads_.complete(from, bytes);
    enter(0).download(host, regions_.at(0, from), bytes);
  }

  void embed(const EmbedArgs& args) override {
    spreads_.overwrite(args.output, args.tokens.size() * static_cast<size_t>(args.table->columns()) * sizeof(float));
    regions_.each([&](size_t i, Backend& part) {
      EmbedArgs own = args;
      own.output = regions_.at(i, args.output);
      part.embed(own);
    });
  }

  void linear(const LinearArgs& args) override { fused_linear({.linear = args}); }

  void fused_linear(const FusedLinearArgs& args) override {
    FusedLinearArgs rest = args;
    if (args.gated) {
      if (gates_shared(*args.gated)) {
        gate_and_gather(*args.gated);
        rest.gated = nullptr;
      } else {
        complete_gates(*args.gated);
        overwrite(args.gated->output, args.gated->tokens * args.gated->width);
      }
    } else if (args.norm) {
      complete(args.norm->input, args.norm->count * args.norm->width);
      overwrite(args.norm->output, args.norm->count * args.norm->width);
    } else {
      complete(args.linear.input, args.linear.tokens * args.linear.jobs[0].matrix->columns());
    }
    for (const LinearJob& job : args.linear.jobs) overwrite(job.output, args.linear.tokens * job.matrix->rows());
    if (args.sum) share_sum(args);
    regions_.each([&](size_t i, Backend& part) { multiply_part(rest, i, part); });
    if (args.gated)
      for (const float* values : {args.gated->gate, args.gated->up}) spreads_.forget(values, args.gated->tokens, args.gated->width);
    for (const LinearJob& job : args.linear.jobs)
      if (!args.sum && matrix_of(job).is_shared()) spreads_.add(job.output, matrix_of(job).shares(args.linear.tokens));
  }

  // Heads' norms are each part's own.
  void norm(const NormArgs& args) override {
    if (const auto spread = args.input == args.output ? whole_heads(args.input, args.count, args.width) : std::nullopt) {
      regions_.each([&](size_t i, Backend& part) {
        NormArgs own = args;
        own.input = own.output = spreads_.own(*spread, i);
        own.weight = regions_.at(i, args.weight);
        own.count = spread->shares.tokens * spread->shares.count(i) / args.width;
        if (own.count > 0) part.norm(own);
      });
      return;
    }
    complete(args.input, args.count * args.width);
    if (args.output != args.input) overwrite(args.output, args.count * args.width);
    regions_.each([&](size_t i, Backend& part) { part.norm(at(i, args)); });
  }

  void rotary(const RotaryArgs& args) override {
    const int64_t tokens = tokens_of(args.stretches);
    const auto spread = heads_of(args.values, tokens, args.heads, args.head_dim, args.stride);
    if (!spread) complete_rows(args.values, tokens, args.heads * args.head_dim, args.stride);
    regions_.each([&](size_t i, Backend& part) {
      const RotaryArgs own = spread ? own_heads(args, *spread, i) : whole(args, i);
      if (own.heads > 0) part.rotary(own);
    });
  }

  void kv_store(const KvStoreArgs& args) override {
    const Rows key = rows_of(args.key, args.stretches, args.kv.kv_heads, args.kv, args.stride);
    const Rows value = rows_of(args.value, args.stretches, args.kv.kv_heads, args.kv, args.stride);
    // One stride for both.
    const bool is_own = key.spread && value.spread;
    if (!is_own) complete(key), complete(value);
    regions_.each([&](size_t i, Backend& part) {
      const KvStoreArgs own = own_store(args, is_own ? &*key.spread : nullptr, is_own ? &*value.spread : nullptr, i);
      if (own.kv.kv_heads > 0) part.kv_store(own);
    });
  }

  void attend(const AttendArgs& args) override {
    const Rows query = rows_of(args.query, args.stretches, args.heads, args.kv, args.stride);
    if (!query.spread) complete(query);
    const std::optional<Shares> shares = share_output(args);
    regions_.each([&](size_t i, Backend& part) {
      const AttendArgs own = own_attend(args, query.spread ? &*query.spread : nullptr, shares, i);
      if (own.heads > 0) part.attend(own);
    });
    if (shares) spreads_.add(args.output, *shares);
  }

  void rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& args) override {
    const Rows queries = rows_of(args.query, args.stretches, args.heads, args.kv, args.stride);
    const Rows keys = rows_of(store.key, store.stretches, store.kv.kv_heads, store.kv, store.stride);
    const Rows values = rows_of(store.value, store.stretches, store.kv.kv_heads, store.kv, store.stride);
    if (!queries.spread || !keys.spread || !values.spread || !shares_heads(args.kv))
      return Backend::rotate_store_attend(query, key, store, args);
    const std::optional<Shares> shares = share_output(args);
    regions_.each([&](size_t i, Backend& part) {
      const AttendArgs own = own_attend(args, &*queries.spread, shares, i);
      if (own.heads == 0) return;
      part.rotate_store_attend(own_heads(query, *queries.spread, i), own_heads(key, *keys.spread, i),
                               own_store(store, &*keys.spread, &*values.spread, i), own);
    });
    spreads_.add(args.output, *shares);
    for (const Rows* rows : {&queries, &keys, &values}) spreads_.forget(rows->values, rows->tokens, rows->width);
  }

  void gated(const GatedArgs& args) override {
    const bool is_shared = gates_shared(args);
    if (!is_shared) complete_gates(args);
    Shares shares{args.tokens, args.width,
                  is_shared ? spreads_.find(args.gate, args.width)->shares.bounds : bounds_of(args.width, kUnitRows)};
    overwrite(args.output, args.tokens * args.width);
    regions_.each([&](size_t i, Backend& part) {
      GatedArgs own = args;
      if (is_shared) {
        own = own_gates(args, i);
      } else {
        own.gate = regions_.at(i, args.gate), own.up = regions_.at(i, args.up);
        if (!shares.bounds.empty()) own.gate += shares.bounds[i], own.up += shares.bounds[i], own.width = shares.count(i);
      }
      own.output = shares.bounds.empty() ? regions_.at(i, args.output) : spreads_.own({args.output, shares}, i);
      if (own.width > 0) part.gated(own);
    });
    if (!shares.bounds.empty()) spreads_.add(args.output, std::move(shares));
  }

  void add(float* sum, const float* addend, int64_t count) override {
    complete(sum, count), complete(addend, count);
    regions_.each([&](size_t i, Backend& part) { part.add(regions_.at(i, sum), regions_.at(i, addend), count); });
  }
  void softcap(float* values, int64_t count, float cap) override {
    const auto spread = std::find_if(spreads_.all().begin(), spreads_.all().end(), [&](const Spread& each) {
      return each.values == values && each.shares.tokens * each.shares.width == count;
    });
    if (spread == spreads_.all().end()) complete(values, count);
    const bool is_own = spread != spreads_.all().end();
    regions_.each([&](size_t i, Backend& part) {
      if (is_own) part.softcap(spreads_.own(*spread, i), spread->shares.tokens * spread->shares.count(i), cap);
      else part.softcap(regions_.at(i, values), count, cap);
    });
  }
  void zero(float* values, int64_t count) override {
    overwrite(values, count);
    const Region& region = regions_.of(values);
    regions_.each([&](size_t i, Backend& part) {
      part.zero(regions_.at(i, values),
                static_cast<int64_t>(region.share_of(static_cast<uint64_t>(count), regions_.own_heads(region.kv_heads(), i))));
    });
  }
  void gather(const RowsArgs& args) override {
    spreads_.complete(args.input, bytes_behind(args.input));
    overwrite(args.output, args.count * args.width);
    regions_.each([&](size_t i, Backend& part) { part.gather(at(i, args)); });
  }
  void scatter_add(const RowsArgs& args) override {
    complete(args.input, args.count * args.width);
    spreads_.complete(args.output, bytes_behind(args.output));
    regions_.each([&](size_t i, Backend& part) { part.scatter_add(at(i, args)); });
  }
  int32_t argmax(const float* values, int64_t count) override {
    complete(values, count);
    return enter(0).argmax(regions_.at(0, values), count);
  }
  void rank(const RankArgs& args) override {
    complete(args.values, static_cast<int64_t>(args.states.size()) * args.width);
    RankArgs own = args;
    own.values = regions_.at(0, args.values);
    enter(0).rank(own);
  }

 private:
  // Heads of rows `stride` floats apart. spread: where they are shared out by the heads that the parts have.
  struct Rows {
    const float* values;
    int64_t tokens, width, stride;
    std::optional<Spread> spread;
  };

  using PartsBackend::complete;
  void complete_rows(const float* values, int64_t tokens, int64_t width, int64_t stride) {
    if (tokens > 0) complete(values, (tokens - 1) * stride + width);
  }
  void complete(const Rows& rows) { complete_rows(rows.values, rows.tokens, rows.width, rows.stride); }
  // Empty: too few to be shared out.
  std::vector<int64_t> bounds_of(int64_t rows, int64_t unit) const {
    const auto parts = static_cast<int64_t>(regions_.parts());
    const int64_t units = (rows + unit - 1) / unit;
    if (units < parts) return {};
    std::vector<int64_t> bounds;
    for (int64_t i = 0; i <= parts; ++i) bounds.push_back(std::min(rows, units * i / parts * unit));
    return bounds;
  }
  Result<std::unique_ptr<Matrix>> prepare_part(const SplitMatrix& matrix, const PackedTensor& tensor, int64_t expert, size_t i) {
    regions_.peers().enter(i);
    if (!matrix.is_shared()) return regions_.part(i).prepare(tensor, expert);
    const int64_t begin = matrix.bounds[i], count = matrix.bounds[i + 1] - begin;
    return regions_.part(i).prepare(cut_rows(tensor, expert, begin, count), 0);
  }

  // Attention has a part's heads, or all of them where they are not shared out.
  Reservation part_bounds(const Reservation& bounds, size_t i) const {
    Reservation own = bounds;
    for (Reservation::Product& product : own.products) {
      std::vector<LinearJob> jobs;
      for (const LinearJob& job : product.jobs)
        if (const Matrix* part = matrix_of(job).parts[i].get()) jobs.push_back({part, regions_.at(i, job.bias), nullptr});
      product.jobs = std::move(jobs);
    }
    std::erase_if(own.products, [](const Reservation::Product& product) { return product.jobs.empty(); });
    for (AttendArgs attention : bounds.attention) {
      const int64_t group = attention.heads / attention.kv.kv_heads;
      attention.kv.kv_heads = std::max<int64_t>(1, regions_.own_heads(attention.kv.kv_heads, i));
      attention.heads = group * attention.kv.kv_heads;
      own.attention.push_back(attention);
    }
    return own;
  }
  // A part's rows of a product that may have a norm or a gate before it and a sum behind.
  void multiply_part(const FusedLinearArgs& args, size_t i, Backend& part) {
    std::vector<LinearJob> jobs;
    float* sum = nullptr;
    for (const LinearJob& job : args.linear.jobs) {
      const SplitMatrix& matrix = matrix_of(job);
      if (!matrix.parts[i]) continue;
      LinearJob own{matrix.parts[i].get(), regions_.at(i, job.bias), regions_.at(i, job.output)};
      if (args.sum) sum = regions_.at(i, args.sum);
      if (matrix.is_shared()) {
        const Shares shares = matrix.shares(args.linear.tokens);
        own.output = spreads_.own({job.output, shares}, i);
        if (own.bias) own.bias += shares.bounds[i];
        if (args.sum) sum = spreads_.own({args.sum, shares}, i);
      }
      jobs.push_back(own);
    }
    if (jobs.empty()) return;
    LinearArgs linear = args.linear;
    linear.input = regions_.at(i, args.linear.input), linear.jobs = jobs;
    FusedLinearArgs own{.linear = linear, .sum = sum};
    NormArgs norm;
    GatedArgs gated;
    if (args.norm) norm = at(i, *args.norm), own.norm = &norm;
    if (args.gated) gated = at(i, *args.gated), own.gated = &gated;
    if (own.norm || own.gated || own.sum) part.fused_linear(own);
    else part.linear(linear);
  }

  // Before the product: what is added to lies as the product's output will.
  void share_sum(const FusedLinearArgs& args) {
    const SplitMatrix& matrix = matrix_of(args.linear.jobs[0]);
    const int64_t tokens = args.linear.tokens;
    const Spread* known = spreads_.find(args.sum, matrix.rows());
    const Shares shares = matrix.shares(tokens);
    if (matrix.is_shared() && known && known->shares == shares) return;
    complete(args.sum, tokens * matrix.rows());
    if (!matrix.is_shared()) return;
    if (tokens > 1) {
      std::vector<const float*> from;
      std::vector<float*> to;
      for (size_t i = 0; i < regions_.parts(); ++i) {
        from.push_back(regions_.at(i, args.sum));
        to.push_back(spreads_.own({args.sum, shares}, i));
      }
      regions_.peers().take(shares, from, to);
    }
    spreads_.add(args.sum, shares);
  }

  // Values that are shared out as whole heads of this width.
  std::optional<Spread> whole_heads(const float* values, int64_t count, int64_t width) const {
    for (const Spread& each : spreads_.all()) {
      if (each.values != values || each.shares.tokens * each.shares.width != count * width) continue;
      const auto& bounds = each.shares.bounds;
      return std::all_of(bounds.begin(), bounds.end(), [&](int64_t bound) { return bound % width == 0; }) ? std::optional(each)
                                                                                                          : std::nullopt;
    }
    return std::nullopt;
  }

  // Attention.
  bool shares_heads(const KvView& kv) const { return regions_.of(kv.key).kv_heads() != 0; }
  // Rows from a token of a matrix on that is shared out by heads of this size.
  std::optional<Spread> heads_of(const float* values, int64_t tokens, int64_t heads, int64_t head_dim, int64_t stride) const {
    if (stride != heads * head_dim) return std::nullopt;
    for (const Spread& each : spreads_.all()) {
      if (values < each.values || values + tokens * stride > each.end() || each.shares.width != stride) continue;
      if ((values - each.values) % stride != 0) return std::nullopt;
      const auto& bounds = each.shares.bounds;
      return std::all_of(bounds.begin(), bounds.end(), [&](int64_t bound) { return bound % head_dim == 0; }) ? std::optional(each)
                                                                                                             : std::nullopt;
    }
    return std::nullopt;
  }
  Rows rows_of(const float* values, std::span<const Stretch> stretches, int64_t heads, const KvView& kv, int64_t stride) const {
    Rows rows{values, tokens_of(stretches), heads * kv.head_dim, stride, std::nullopt};
    auto spread = heads_of(values, rows.tokens, heads, kv.head_dim, stride);
    if (!spread || !shares_heads(kv)) return rows;
    for (size_t i = 0; i <= regions_.parts(); ++i)
      if (spread->shares.bounds[i] != first_head(kv.kv_heads, i, regions_.parts()) * (heads / kv.kv_heads) * kv.head_dim) return rows;
    rows.spread = std::move(spread);
    return rows;
  }
  // Where a part's own columns of a token of the spread lie.
  float* own_rows(const Spread& spread, const float* values, size_t i) const {
    return spreads_.own(spread, i) + (values - spread.values) / spread.shares.width * spread.shares.count(i);
  }
  RotaryArgs own_heads(const RotaryArgs& args, const Spread& spread, size_t i) {
    RotaryArgs own = args;
    own.values = own_rows(spread, args.values, i), own.stride = spread.shares.count(i);
    own.heads = own.stride / args.head_dim, own.stretches = stretches_of(args.stretches, i);
    return own;
  }
  RotaryArgs whole(const RotaryArgs& args, size_t i) {
    RotaryArgs own = args;
    own.values = regions_.at(i, args.values), own.stretches = stretches_of(args.stretches, i);
    return own;
  }
  KvView own_kv(const KvView& kv, size_t i) const {
    KvView own = kv;
    own.key = regions_.at(i, kv.key), own.value = regions_.at(i, kv.value);
    if (shares_heads(kv)) own.kv_heads = regions_.own_heads(kv.kv_heads, i);
    return own;
  }
  // Floats of a row before a part's own heads, of `heads` in all.
  int64_t skipped(const KvView& kv, int64_t heads, size_t i) const {
    return shares_heads(kv) ? first_head(kv.kv_heads, i, regions_.parts()) * (heads / kv.kv_heads) * kv.head_dim : 0;
  }
  KvStoreArgs own_store(const KvStoreArgs& args, const Spread* key, const Spread* value, size_t i) {
    KvStoreArgs own = args;
    own.kv = own_kv(args.kv, i), own.stretches = stretches_of(args.stretches, i);
    if (key && value) {
      own.key = own_rows(*key, args.key, i), own.value = own_rows(*value, args.value, i), own.stride = key->shares.count(i);
    } else {
      const int64_t before = skipped(args.kv, args.kv.kv_heads, i);
      own.key = regions_.at(i, args.key) + before, own.value = regions_.at(i, args.value) + before;
    }
    return own;
  }
  // What attention gives is shared out by heads, as keys and values are.
  std::optional<Shares> share_output(const AttendArgs& args) {
    const int64_t width = args.heads * args.kv.head_dim;
    overwrite(args.output, tokens_of(args.stretches) * width);
    if (!shares_heads(args.kv)) return std::nullopt;
    Shares shares{tokens_of(args.stretches), width, {}};
    for (size_t i = 0; i < regions_.parts(); ++i) shares.bounds.push_back(skipped(args.kv, args.heads, i));
    shares.bounds.push_back(width);
    return shares;
  }
  AttendArgs own_attend(const AttendArgs& args, const Spread* query, const std::optional<Shares>& shares, size_t i) {
    AttendArgs own = args;
    own.kv = own_kv(args.kv, i), own.stretches = stretches_of(args.stretches, i);
    own.heads = args.heads / args.kv.kv_heads * own.kv.kv_heads;
    if (query) own.query = own_rows(*query, args.query, i), own.stride = query->shares.count(i);
    else own.query = regions_.at(i, args.query) + skipped(args.kv, args.heads, i);
    own.output = shares ? spreads_.own({args.output, *shares}, i) : regions_.at(i, args.output);
    return own;
  }

  // Whether gate and up are shared out alike, rows close up.
  bool gates_shared(const GatedArgs& args) const {
    if (args.stride != args.width) return false;
    const Spread *gate = spreads_.find(args.gate, args.width), *up = spreads_.find(args.up, args.width);
    return gate && up && gate->shares == up->shares && gate->shares.tokens == args.tokens;
  }
  void complete_gates(const GatedArgs& args) {
    complete_rows(args.gate, args.tokens, args.width, args.stride);
    complete_rows(args.up, args.tokens, args.width, args.stride);
  }
  GatedArgs own_gates(const GatedArgs& args, size_t i) const {
    const Spread &gate = *spreads_.find(args.gate, args.width), &up = *spreads_.find(args.up, args.width);
    GatedArgs own = args;
    own.gate = spreads_.own(gate, i), own.up = spreads_.own(up, i), own.output = nullptr;
    own.width = own.stride = gate.shares.count(i);
    return own;
  }
  // The whole output on every part.
  void gate_and_gather(const GatedArgs& args) {
    const Shares shares = spreads_.find(args.gate, args.width)->shares;
    std::vector<GatedArgs> own;
    std::vector<float*> to;
    for (size_t i = 0; i < regions_.parts(); ++i) {
      own.push_back(own_gates(args, i));
      to.push_back(regions_.at(i, args.output));
    }
    overwrite(args.output, args.tokens * args.width);
    if (regions_.peers().gather_gated(shares, own, to)) return;
    gated(args);
    complete(args.output, args.tokens * args.width);
  }
};

}  // namespace

std::unique_ptr<Backend> make_split_backend(std::string name, std::vector<std::unique_ptr<Backend>> parts, std::unique_ptr<Peers> peers) {
  TQ_CHECK(!parts.empty());
  return std::make_unique<SplitBackend>(std::move(name), std::move(parts), std::move(peers));
}

}  // namespace tq
