#include "kernels/split/split_backend.h"

#include <algorithm>
#include <optional>

#include "kernels/split/parts_backend.h"
#include "kernels/split/split_heads.h"
#include "kernels/split/split_matrix.h"

namespace tq {
namespace {

class SplitBackend final : public PartsBackend {
 public:
  using PartsBackend::PartsBackend;

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    return SplitMatrix::prepare(tensor, expert, regions_);
  }

  Result<Memory> allocate_heads(uint64_t bytes, int64_t kv_heads) override { return create_region(bytes, kv_heads); }
  Status reserve(const Reservation& bounds) override {
    if (bounds.rows > 1) regions_.reserve_compact();  // single tokens are shared out where they lie
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
    if (const auto spread = args.input == args.output ? heads_.whole(args.input, args.count, args.width) : std::nullopt) {
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
    const auto spread = heads_.find(args.values, tokens, args.heads, args.head_dim, args.stride);
    if (!spread) complete_rows(args.values, tokens, args.heads * args.head_dim, args.stride);
    regions_.each([&](size_t i, Backend& part) {
      const RotaryArgs own = own_part(args, spread, i);
      if (own.heads > 0) part.rotary(own);
    });
  }

  void kv_store(const KvStoreArgs& args) override {
    HeadRows key = heads_.rows(args.key, args.stretches, args.kv.kv_heads, args.kv, args.stride);
    HeadRows value = heads_.rows(args.value, args.stretches, args.kv.kv_heads, args.kv, args.stride);
    // One stride for both.
    if (!key.spread || !value.spread) {
      complete(key), complete(value);
      key.spread = value.spread = std::nullopt;
    }
    regions_.each([&](size_t i, Backend& part) {
      const KvStoreArgs own = own_part(args, key, value, i);
      if (own.kv.kv_heads > 0) part.kv_store(own);
    });
  }

  void attend(const AttendArgs& args) override {
    const HeadRows query = heads_.rows(args.query, args.stretches, args.heads, args.kv, args.stride);
    if (!query.spread) complete(query);
    overwrite_output(args);
    const std::optional<Shares> shares = heads_.output(args);
    regions_.each([&](size_t i, Backend& part) {
      const AttendArgs own = own_part(args, query, shares, i);
      if (own.heads > 0) part.attend(own);
    });
    if (shares) spreads_.add(args.output, *shares);
  }

  void rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& args) override {
    const HeadRows queries = heads_.rows(args.query, args.stretches, args.heads, args.kv, args.stride);
    const HeadRows keys = heads_.rows(store.key, store.stretches, store.kv.kv_heads, store.kv, store.stride);
    const HeadRows values = heads_.rows(store.value, store.stretches, store.kv.kv_heads, store.kv, store.stride);
    if (!queries.spread || !keys.spread || !values.spread || !heads_.are_shared(args.kv))
      return Backend::rotate_store_attend(query, key, store, args);
    overwrite_output(args);
    const std::optional<Shares> shares = heads_.output(args);
    regions_.each([&](size_t i, Backend& part) {
      const AttendArgs own = own_part(args, queries, shares, i);
      if (own.heads == 0) return;
      part.rotate_store_attend(own_part(query, queries.spread, i), own_part(key, keys.spread, i), own_part(store, keys, values, i), own);
    });
    spreads_.add(args.output, *shares);
    for (const HeadRows* rows : {&queries, &keys, &values}) spreads_.forget(rows->values, rows->tokens, rows->width);
  }

  void gated(const GatedArgs& args) override {
    const bool is_shared = gates_shared(args);
    if (!is_shared) complete_gates(args);
    Shares shares{args.tokens, args.width,
                  is_shared ? spreads_.find(args.gate, args.width)->shares.bounds : bounds_of(args.width, kUnitRows, regions_.parts())};
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
    const Spread* spread = spreads_.find_all(values, count);
    if (!spread) complete(values, count);
    regions_.each([&](size_t i, Backend& part) {
      if (spread) part.softcap(spreads_.own(*spread, i), spread->shares.tokens * spread->shares.count(i), cap);
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
  using PartsBackend::complete;
  void complete_rows(const float* values, int64_t tokens, int64_t width, int64_t stride) {
    if (tokens > 0) complete(values, (tokens - 1) * stride + width);
  }
  void complete(const HeadRows& rows) { complete_rows(rows.values, rows.tokens, rows.width, rows.stride); }
  void overwrite_output(const AttendArgs& args) { overwrite(args.output, tokens_of(args.stretches) * args.heads * args.kv.head_dim); }

  // Attention has a part's heads, or all of them where they are not shared out.
  Reservation part_bounds(const Reservation& bounds, size_t i) const {
    Reservation own = bounds;
    for (Reservation::Product& product : own.products) {
      std::vector<LinearJob> jobs;
      for (const LinearJob& job : product.jobs) jobs.push_back({matrix_of(job).part(i), regions_.at(i, job.bias), nullptr});
      product.jobs = std::move(jobs);
    }
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
      LinearJob own{matrix.part(i), regions_.at(i, job.bias), regions_.at(i, job.output)};
      if (args.sum) sum = regions_.at(i, args.sum);
      if (matrix.is_shared()) {
        const Shares shares = matrix.shares(args.linear.tokens);
        own.output = spreads_.own({job.output, shares}, i);
        if (own.bias) own.bias += shares.bounds[i];
        if (args.sum) sum = spreads_.own({args.sum, shares}, i);
      }
      jobs.push_back(own);
    }
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

  static const Spread* address_of(const std::optional<Spread>& spread) { return spread ? &*spread : nullptr; }
  RotaryArgs own_part(const RotaryArgs& args, const std::optional<Spread>& spread, size_t i) {
    return heads_.own(args, address_of(spread), stretches_of(args.stretches, i), i);
  }
  KvStoreArgs own_part(const KvStoreArgs& args, const HeadRows& key, const HeadRows& value, size_t i) {
    return heads_.own(args, address_of(key.spread), address_of(value.spread), stretches_of(args.stretches, i), i);
  }
  AttendArgs own_part(const AttendArgs& args, const HeadRows& query, const std::optional<Shares>& output, size_t i) {
    return heads_.own(args, address_of(query.spread), output, stretches_of(args.stretches, i), i);
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

  SplitHeads heads_{regions_, spreads_};
};

}  // namespace

std::unique_ptr<Backend> make_split_backend(std::string name, std::vector<std::unique_ptr<Backend>> parts, std::unique_ptr<Peers> peers) {
  TQ_CHECK(!parts.empty());
  return std::make_unique<SplitBackend>(std::move(name), std::move(parts), std::move(peers));
}

}  // namespace tq
