// plane_stream [--columns N] [--threads N]: GB/s of ways to multiply planes with one token, from the second level on one thread and from
// memory on all, beside the read-only loop that `tq bench` compares with.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/rng.h"
#include "eval/speed.h"
#include "plane_stream.h"

namespace {

using namespace tq;

constexpr int64_t kBytes = int64_t{384} << 20, kCached = int64_t{1} << 19, kTask = 4;  // bytes of planes; blocks that a thread takes

double median_seconds(int rounds, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void measure(int64_t columns, int thread_count) {
  ThreadPool threads(thread_count);
  const int64_t lines = columns / 4, block = lines * 64, blocks = kBytes / block / kTask * kTask;
  auto bits = Buffer<uint64_t>::uninitialized(static_cast<size_t>(blocks * block + (1 << 20)) / 8);  // what is fetched ahead is there
  threads.run(static_cast<int64_t>(bits.size()), 1 << 14, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) bits[static_cast<size_t>(i)] = splitmix64(static_cast<uint64_t>(i));
  });
  std::vector<int8_t> values(static_cast<size_t>(2 * columns));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int8_t>(static_cast<int>(i * 37 % 255) - 127);
  const std::vector<float> scale(static_cast<size_t>(lines / 64 + 1), 0.01f);
  Buffer<float> z(static_cast<size_t>(blocks * 128));
  ReadLoop loop(threads);
  for (const StreamVariant& variant : stream_variants()) {
    const auto run = [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; b += variant.blocks)
        variant.run({reinterpret_cast<const uint8_t*>(bits.data()) + b * block, lines, values.data(), scale.data(), z.data() + b * 128});
    };
    const int64_t few = std::max<int64_t>(kTask, kCached / block / kTask * kTask);
    const double cached = median_seconds(20, [&] { run(0, few, 0); });
    const double memory = median_seconds(5, [&] { threads.run(blocks, kTask, run); });
    std::vector<double> reads;
    for (int i = 0; i < 3; ++i) reads.push_back(loop.bytes_per_second());
    std::sort(reads.begin(), reads.end());
    std::printf("%-42s L2, 1 thread: %6.1f GB/s;  memory: %6.1f GB/s;  read-only loop: %6.1f GB/s\n", variant.name,
                static_cast<double>(few * block) / cached / 1e9, static_cast<double>(blocks * block) / memory / 1e9, reads[1] / 1e9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  int64_t columns = 2048;
  int threads = 2;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string word = argv[i];
    if (word == "--columns") columns = std::stoll(argv[i + 1]) / 256 * 256;
    if (word == "--threads") threads = std::stoi(argv[i + 1]);
  }
  const auto isas = supported_isas();
  if (std::find(isas.begin(), isas.end(), Isa::kAvx512) == isas.end()) return std::printf("no AVX-512 VNNI here\n"), 1;
  measure(std::max<int64_t>(256, columns), threads);
  return 0;
}
