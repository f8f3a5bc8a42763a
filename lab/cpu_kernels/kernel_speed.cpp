// kernel_speed [--isa NAME] [--threads N] [rows | planes | gemm]…: GB/s of the few-token kernels, GMAC/s of the products of many tokens.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "base/rng.h"
#include "codec/grid/grid.h"
#include "codec/grid/taps.h"
#include "kernels/cpu/cpu_backend.h"
#include "peak.h"
#include "tensor/ggml_types.h"

namespace {

using namespace tq;

double best_seconds(const std::function<void()>& work, int rounds) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

Buffer<uint8_t> random_bytes(size_t count) {
  auto bytes = Buffer<uint8_t>::uninitialized(count);
  Rng rng(1);
  for (size_t i = 0; i < count; ++i) bytes[i] = i % 8 ? static_cast<uint8_t>(bytes[i - i % 8] * 37 + i) : static_cast<uint8_t>(rng.bits());
  return bytes;
}

struct Owned {
  Buffer<uint8_t> bytes;
  std::vector<uint8_t> rates, sign;
  std::vector<uint16_t> scale;
  std::vector<grid::Taps> taps;
};

PackedTensor ggml_matrix(uint32_t type, int64_t rows, int64_t columns) {
  auto owned = std::make_shared<Owned>();
  const GgmlType& geometry = *ggml_type(type);
  const int64_t bytes = rows * columns / geometry.block_size * geometry.block_bytes;
  owned->bytes = random_bytes(static_cast<size_t>(bytes));
  const bool is_bfloat = geometry.name == "BF16", is_float = geometry.name == "F32";
  for (int64_t i = 1; i < bytes; i += 2) {  // no infinite halves; floats near 1, since tiny ones are slow
    uint8_t& byte = owned->bytes[static_cast<size_t>(i)];
    if (is_bfloat || (is_float && i % 4 == 3)) byte = 0x3f;
    else byte &= 0xbf;
  }
  PackedTensor tensor{.codec = CodecId::kGgml, .variant = type, .shape = {rows, columns}, .parts = {}, .owner = owned};
  tensor.parts.push_back({"blocks", {DType::kU8, {bytes}, reinterpret_cast<const std::byte*>(owned->bytes.data())}});
  return tensor;
}

PackedTensor grid_matrix(uint8_t rate, int64_t rows, int64_t columns) {
  auto owned = std::make_shared<Owned>();
  owned->rates.assign(static_cast<size_t>(rows / 32), rate);
  owned->sign.assign(static_cast<size_t>(columns / 8), 0x5a);
  owned->scale.assign(static_cast<size_t>(rows), 0x2000);
  const grid::Layout layout(rows, columns, owned->rates);
  owned->bytes = random_bytes(layout.bytes());
  PackedTensor tensor{.codec = CodecId::kGrid, .variant = 0, .shape = {rows, columns}, .parts = {}, .owner = owned};
  const auto add = [&](const std::string& name, DType dtype, size_t count, const void* data) {
    tensor.parts.push_back({name, {dtype, {static_cast<int64_t>(count)}, static_cast<const std::byte*>(data)}});
  };
  const grid::Taps& taps = grid::default_taps(rate, rate == 3 || rate == 4 ? 12 : grid::windows(rate).back());
  add("bits", DType::kU8, owned->bytes.size(), owned->bytes.data());
  add("rates", DType::kU8, owned->rates.size(), owned->rates.data());
  add("sign", DType::kU8, owned->sign.size(), owned->sign.data());
  add("row_scale", DType::kF16, owned->scale.size(), owned->scale.data());
  add(grid::taps_name(rate, static_cast<int>(taps.size())), DType::kF32, taps.size(), taps.data());
  return tensor;
}

// Seconds of one product, the best of some rounds.
double time_product(Backend& backend, const Matrix& matrix, int64_t tokens, int rounds) {
  std::vector<float> input(static_cast<size_t>(tokens * matrix.columns())), output(static_cast<size_t>(tokens * matrix.rows()));
  Rng rng(3);
  for (float& x : input) x = static_cast<float>(rng.gaussian());
  const LinearJob job{&matrix, nullptr, output.data()};
  return best_seconds([&] { backend.linear({.input = input.data(), .tokens = tokens, .jobs = {&job, 1}}); }, rounds);
}

void few_tokens(const char* name, const std::function<PackedTensor(int64_t rows)>& make, Isa isa, int threads) {
  ThreadPool one(1), all(threads);
  const auto alone = make_cpu_backend(one, isa), together = make_cpu_backend(all, isa);
  const PackedTensor small = make(512), large = make(131072);
  const auto in_cache = alone->prepare(small), from_memory = together->prepare(large);
  const auto rate = [](const Matrix& matrix, double seconds) { return static_cast<double>(matrix.bytes()) / seconds / 1e9; };
  std::printf("%-12s cache, 1 thread: %6.1f GB/s;  memory, all threads:", name, rate(**in_cache, time_product(*alone, **in_cache, 1, 100)));
  for (const int64_t tokens : {1, 4, 8})
    std::printf("  %ld tokens %6.1f", static_cast<long>(tokens), rate(**from_memory, time_product(*together, **from_memory, tokens, 5)));
  std::printf(" GB/s\n");
}

void many_tokens(const char* name, const PackedTensor& tensor, Isa isa, int threads) {
  ThreadPool pool(threads);
  const auto backend = make_cpu_backend(pool, isa);
  const auto matrix = backend->prepare(tensor);
  std::printf("%-12s", name);
  for (const int64_t tokens : {16, 64, 512}) {
    const double seconds = time_product(*backend, **matrix, tokens, 3);
    const double products = static_cast<double>(tokens) * static_cast<double>(matrix->get()->rows() * matrix->get()->columns());
    std::printf("  %ld tokens: %7.1f GMAC/s", static_cast<long>(tokens), products / seconds / 1e9);
  }
  std::printf("   (%s)\n", (*matrix)->kernel(512).c_str());
}

// A loop that only reads.
void read_only(int threads) {
  ThreadPool pool(threads);
  const Buffer<uint8_t> bytes = random_bytes(size_t{256} << 20);
  const auto* words = reinterpret_cast<const uint64_t*>(bytes.data());
  uint64_t kept[64] = {};
  const double seconds = best_seconds(
      [&] {
        pool.run(static_cast<int64_t>(bytes.size() / 256), 1 << 12, [&](int64_t begin, int64_t end, int thread) {
          uint64_t sums[32] = {};
          for (int64_t i = begin; i < end; ++i)
            for (int64_t j = 0; j < 32; ++j) sums[j] += words[i * 32 + j];
          for (const uint64_t sum : sums) kept[thread % 64] += sum;
        });
      },
      7);
  std::printf("read-only    %.1f GB/s (%d)\n", static_cast<double>(bytes.size()) / seconds / 1e9, static_cast<int>(kept[0] & 1));
}

// Products a second of all threads, from registers.
void peak(Isa isa, int threads) {
  ThreadPool pool(threads);
  for (const bool is_float : {true, false}) {
    std::vector<int64_t> done(static_cast<size_t>(threads));
    const double seconds = best_seconds(
        [&] {
          pool.run(threads, 1, [&](int64_t begin, int64_t, int) { done[static_cast<size_t>(begin)] = spend_products(isa, is_float); });
        },
        7);
    int64_t total = 0;
    for (const int64_t each : done) total += each;
    std::printf("peak, %s: %.0f GMAC/s\n", is_float ? "AVX2 f32" : "integers", static_cast<double>(total) / seconds / 1e9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Isa isa = best_isa();
  int threads = 2;
  bool rows = false, planes = false, gemm = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--isa" && i + 1 < argc) isa = isa_from_name(argv[++i]).value_or(isa);
    else if (word == "--threads" && i + 1 < argc) threads = std::stoi(argv[++i]);
    rows |= word == "rows", planes |= word == "planes", gemm |= word == "gemm";
  }
  std::printf("%s, %d threads\n", std::string(isa_name(isa)).c_str(), threads);
  read_only(threads);
  if (gemm) peak(isa, threads);
  if (rows)
    for (const uint32_t type : {0, 1, 30, 8, 2, 3, 6, 7, 10, 11, 12, 13, 14})
      few_tokens(
          std::string(ggml_type(type)->name).c_str(), [&](int64_t n) { return ggml_matrix(type, n, 2048); }, isa, threads);
  if (planes)
    for (const uint8_t rate : {2, 3, 4, 6})
      few_tokens(("grid " + std::to_string(rate)).c_str(), [&](int64_t n) { return grid_matrix(rate, n, 2048); }, isa, threads);
  if (gemm) {
    for (const uint8_t rate : {2, 3, 4, 6})
      many_tokens(("grid " + std::to_string(rate)).c_str(), grid_matrix(rate, 2048, 2048), isa, threads);
    for (const uint32_t type : {1, 30, 12})
      many_tokens(std::string(ggml_type(type)->name).c_str(), ggml_matrix(type, 2048, 2048), isa, threads);
  }
  return 0;
}
