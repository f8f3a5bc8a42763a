// Attention of prompts on a GPU: the kernel for single tokens beside the one for many rows, and forms of the latter beside each other.
// Usage: cuda_attention [bench] [sweep]; prints one JSON line a result.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/attend_prompt.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

#define CHECK(call)                                                                             \
  do {                                                                                          \
    const cudaError_t status = (call);                                                          \
    if (status != cudaSuccess) {                                                                \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(status)), std::exit(1); \
    }                                                                                           \
  } while (false)

using namespace tq::cuda;

namespace {

constexpr double kPeak = 990e12;  // dense products of halves, H100 and H200
constexpr int kPageShift = 5;

__global__ void fill_bytes(int8_t* values, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    values[i] = static_cast<int8_t>((static_cast<uint32_t>(i) * 2654435761u + seed) >> 24);
}
__device__ float random_float(int64_t i, uint32_t seed) {
  uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
  x ^= x >> 15, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
  return (static_cast<float>(x >> 8) / 8388608.0f - 1.0f) * 1.7f;
}
template <typename T>
__global__ void fill(T* values, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    values[i] = static_cast<T>(random_float(i, seed));
}
// The scales of rows of bytes.
__global__ void fill_scales(char* rows, int64_t count, int row_bytes, int scale_at) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    *reinterpret_cast<float*>(rows + i * row_bytes + scale_at) = 0.013f;
}

template <typename T>
T* device(int64_t count) {
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T)));
  return static_cast<T*>(memory);
}

struct Shape {
  const char* name;
  int heads, kv_heads, dim, tokens, past;
};

// Queries, keys, values and places of one prompt in pages in reverse order.
struct Prompt {
  Shape shape;
  AttendPromptArgs args;
  AttendArgsDevice old_args;
  int64_t outputs = 0;

  Prompt(const Shape& of, int type) : shape(of) {
    const int positions = of.past + of.tokens, pages = (positions + (1 << kPageShift) - 1) >> kPageShift;
    const int64_t rows = static_cast<int64_t>(pages) * of.kv_heads << kPageShift;
    KvArgs kv;
    kv.type = type, kv.kv_heads = of.kv_heads, kv.head_dim = of.dim, kv.page_shift = kPageShift;
    kv.row_bytes = type == 0 ? of.dim * 4 : type == 1 ? of.dim * 2 : of.dim + 4;
    kv.scale_at = of.dim;
    for (char** side : {&kv.key, &kv.value}) {
      *side = device<char>(rows * kv.row_bytes);
      const auto seed = static_cast<uint32_t>(side == &kv.key ? 1 : 2);
      if (type == 0) fill<<<1024, 256>>>(reinterpret_cast<float*>(*side), rows * of.dim, seed);
      if (type == 1) fill<<<1024, 256>>>(reinterpret_cast<__half*>(*side), rows * of.dim, seed);
      if (type == 2) {
        fill_bytes<<<1024, 256>>>(reinterpret_cast<int8_t*>(*side), rows * kv.row_bytes, seed);
        fill_scales<<<1024, 256>>>(*side, rows, kv.row_bytes, kv.scale_at);
      }
    }
    std::vector<int32_t> table;
    for (int i = 0; i < pages; ++i) table.push_back(pages - 1 - i);
    auto* on_device = device<int32_t>(pages);
    CHECK(cudaMemcpy(on_device, table.data(), table.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
    std::vector<Place> places;
    for (int t = 0; t < of.tokens; ++t) places.push_back({on_device, of.past + t});
    auto* place = device<Place>(of.tokens);
    CHECK(cudaMemcpy(place, places.data(), places.size() * sizeof(Place), cudaMemcpyHostToDevice));
    outputs = static_cast<int64_t>(of.tokens) * of.heads * of.dim;
    auto* query = device<float>(outputs);
    fill<<<1024, 256>>>(query, outputs, 3u);
    args.query = query, args.output = device<float>(outputs), args.place = place, args.stride = static_cast<int64_t>(of.heads) * of.dim;
    args.heads = of.heads, args.scale = 1.0f / std::sqrt(static_cast<float>(of.dim)), args.kv = kv;
    args.stretches = 1, args.stretch[0].tokens = of.tokens;
    old_args.query = query, old_args.output = device<float>(outputs), old_args.place = place, old_args.stride = args.stride;
    old_args.tokens = of.tokens, old_args.heads = of.heads, old_args.scale = args.scale, old_args.kv = kv;
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaGetLastError());
  }
  ~Prompt() {
    const void* all[] = {args.kv.key, args.kv.value, args.query, args.output, args.place, old_args.output};
    for (const void* memory : all) cudaFree(const_cast<void*>(memory));
  }
  // Of the products that causality leaves.
  double operations() const {
    const double pairs = static_cast<double>(shape.tokens) * shape.past + 0.5 * shape.tokens * (shape.tokens + 1.0);
    return 4.0 * shape.dim * shape.heads * pairs;
  }
  double difference() const {
    std::vector<float> got(static_cast<size_t>(outputs)), expected(got.size());
    CHECK(cudaMemcpy(got.data(), args.output, got.size() * sizeof(float), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(expected.data(), old_args.output, got.size() * sizeof(float), cudaMemcpyDeviceToHost));
    double sum = 0, size = 0;
    for (size_t i = 0; i < got.size(); ++i) sum += std::pow(got[i] - expected[i], 2.0), size += std::pow(expected[i], 2.0);
    return std::sqrt(sum / size);
  }
};

// Median of some runs, in seconds.
double seconds(const std::function<void(cudaStream_t)>& run) {
  cudaStream_t stream;
  cudaEvent_t begin, end;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  constexpr int kRuns = 15, kEach = 4;
  std::vector<float> times;
  run(stream);
  for (int i = 0; i < kRuns; ++i) {
    CHECK(cudaEventRecord(begin, stream));
    for (int j = 0; j < kEach; ++j) run(stream);
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaEventElapsedTime(&times.emplace_back(), begin, end));
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(begin), cudaEventDestroy(end), cudaStreamDestroy(stream);
  return times[kRuns / 2] * 1e-3 / kEach;
}

const char* type_name(int type) { return type == 0 ? "f32" : type == 1 ? "f16" : "q8"; }

void report(const Prompt& prompt, const std::string& what, double time, double difference) {
  std::printf(
      "{\"shape\":\"%s\",\"tokens\":%d,\"past\":%d,\"kv\":\"%s\",\"kernel\":\"%s\",\"microseconds\":%.1f,\"tflops\":%.1f,"
      "\"share_of_peak\":%.3f,\"difference\":%.2e}\n",
      prompt.shape.name, prompt.shape.tokens, prompt.shape.past, type_name(prompt.args.kv.type), what.c_str(), time * 1e6,
      prompt.operations() / time * 1e-12, prompt.operations() / time / kPeak, difference);
  std::fflush(stdout);
}

int multiprocessors() {
  int count = 0;
  CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return count;
}

constexpr Shape kShapes[] = {{"8b", 32, 8, 128, 512, 0},      {"8b", 32, 8, 128, 2048, 0},      {"8b", 32, 8, 128, 8192, 0},
                             {"8b", 32, 8, 128, 512, 7680},   {"qwen-0.5b", 14, 2, 64, 512, 0}, {"qwen-0.5b", 14, 2, 64, 1024, 0},
                             {"gemma-4b", 8, 4, 256, 2048, 0}};

void bench() {
  for (const Shape& shape : kShapes)
    for (const int type : {1, 2, 0}) {
      Prompt prompt(shape, type);
      const double old_time = seconds([&](cudaStream_t stream) { attend(prompt.old_args, stream); });
      report(prompt, "a thread block a token", old_time, 0.0);
      for (const bool is_exact : {false, true}) {
        const double time = seconds([&](cudaStream_t stream) { attend_prompt(prompt.args, is_exact, multiprocessors(), stream); });
        report(prompt, is_exact ? "many rows, exact" : "many rows", time, prompt.difference());
      }
    }
}

template <typename Form>
void try_form(Prompt& prompt, const char* name) {
  for (const int warps : {2, 4, 8}) {
    if (warps > Form::kMostWarps) continue;
    AttendPromptArgs args = prompt.args;
    args.tiles = (args.stretch[0].tokens * (args.heads / args.kv.kv_heads) + warps * kWarpRows - 1) / (warps * kWarpRows);
    const dim3 grid(static_cast<unsigned>(args.tiles * args.kv.kv_heads));
    const double time = seconds(
        [&](cudaStream_t stream) { launch(&attend_prompt_kernel<Form>, grid, warps * 32, Form::shared_bytes(warps), stream, args); });
    int blocks = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, &attend_prompt_kernel<Form>, warps * 32,
                                                        static_cast<size_t>(Form::shared_bytes(warps))));
    report(prompt, std::string(name) + ", " + std::to_string(warps) + " warps, " + std::to_string(blocks) + " a multiprocessor", time,
           prompt.difference());
  }
}

template <int kDim, int kMany, int kFew>
void sweep_shape(const Shape& shape) {
  Prompt prompt(shape, 1);
  attend(prompt.old_args, nullptr);
  CHECK(cudaDeviceSynchronize());
  try_form<PromptForm<1, kDim, 1, 1, kMany>>(prompt, "query 1 term, weights 1, more positions");
  try_form<PromptForm<1, kDim, 2, 1, kMany>>(prompt, "query 2 terms, weights 1, more positions");
  try_form<PromptForm<1, kDim, 2, 2, kMany>>(prompt, "query 2 terms, weights 2, more positions");
  try_form<PromptForm<1, kDim, 1, 1, kFew>>(prompt, "query 1 term, weights 1, fewer positions");
  try_form<PromptForm<1, kDim, 2, 1, kFew>>(prompt, "query 2 terms, weights 1, fewer positions");
}

void sweep() {
  for (const Shape& shape : kShapes) {
    if (shape.dim == 64) sweep_shape<64, 64, 32>(shape);
    if (shape.dim == 128) sweep_shape<128, 64, 32>(shape);
    if (shape.dim == 256) sweep_shape<256, 32, 16>(shape);
  }
}

}  // namespace

int main(int count, char** values) {
  const std::vector<std::string> given(values + 1, values + count);
  const auto has = [&](const char* name) { return given.empty() || std::find(given.begin(), given.end(), name) != given.end(); };
  if (has("bench")) bench();
  if (has("sweep")) sweep();
}
