// The plane product on a GPU, version by version: checks each against a scalar, then times whole layers beside cuBLAS FP16 and a loop that
// only reads. Usage: cuda_planes [check] [bench] [rows] [check-many] [check-bands] [bench-many | bench-many-4]; prints one JSON line a
// result.
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/plane_linear.cuh"
#include "kernels/cuda/plane_plan.h"
#include "kernels/cuda/plane_rows.cuh"
#include "kernels/cuda/quantize_kernel.cuh"

#define CHECK(call)                                                                             \
  do {                                                                                          \
    const cudaError_t status = (call);                                                          \
    if (status != cudaSuccess) {                                                                \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(status)), std::exit(1); \
    }                                                                                           \
  } while (false)

using namespace tq::cuda;

namespace {

int g_sms = 0;
constexpr int kMostTokens = 512;
constexpr int64_t kMostInput = int64_t{kMostTokens} * 28672;  // values; of gated inputs twice as many

__host__ __device__ uint32_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>((x ^ (x >> 31)) >> 16);
}
__global__ void fill_words(uint32_t* words, int64_t count, uint64_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    words[i] = mix(seed * 0x100000001ull + static_cast<uint64_t>(i));
}
__global__ void fill_halves(__half* values, int64_t count, uint64_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    values[i] = __float2half((static_cast<float>(mix(seed + static_cast<uint64_t>(i)) & 0xffff) / 32768.0f - 1.0f) * 0.02f);
}
__global__ void fill_floats(float* values, int64_t count, uint64_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    values[i] = static_cast<float>(mix(seed + static_cast<uint64_t>(i)) & 0xffffff) / 8388608.0f - 1.0f;
}
__global__ void read_loop(const uint4* words, int64_t count, uint32_t* sink) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint32_t sum = 0;
  int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(words + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 12345u) *sink = sum;
}

template <typename T>
T* device(int64_t count) {
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, std::max<int64_t>(count, 1) * sizeof(T) + 256));
  return static_cast<T*>(memory);
}
template <typename T>
T* device(const std::vector<T>& values) {
  T* memory = device<T>(static_cast<int64_t>(values.size()));
  CHECK(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}

template <typename... Parameters, typename... Args>
void launch_clusters(void (*kernel)(Parameters...), dim3 grid, int cluster, int threads, int shared, cudaStream_t stream, bool early,
                     Args... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  int count = 0;
  if (early) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(cluster);
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1, ++count;
  }
  config.attrs = attributes, config.numAttrs = count;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100));  // alike, or every change costs microseconds
  CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared, cudaStream_t stream, bool early, Args... args) {
  launch_clusters(kernel, grid, 1, threads, shared, stream, early, args...);
}

// One way to launch the product.
struct Variant {
  std::string name;
  bool rounds;      // in the product's kernel, for one token
  int most_groups;  // of a slice, for one token
  // Thread blocks own rows.
  int slices = 0;  // 0: they do not
  bool launches_late = false;
  bool is_roomy = false;  // takes half of a multiprocessor's shared memory
  int blocks = 0;
};

template <int kTokens, int kBits, int kStages>
void run_form(const PlaneArgs& args, int blocks, cudaStream_t stream, bool early) {
  const int shared = std::max(args.least_shared, PlaneLinear<kTokens, kBits, kStages>::shared_bytes(args.split));
  auto* kernel = &plane_linear_kernel<kTokens, kBits, kStages>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  launch(kernel, dim3(static_cast<unsigned>(blocks)), kProductWarps * 32, shared, stream, early, args);
}

void run_product(const PlaneArgs& args, const PlanePlan& plan, cudaStream_t stream, bool early) {
  switch (plan.form.tokens) {
    case 1: return run_form<1, 16, 5>(args, plan.blocks(), stream, early);
    case 2: return run_form<2, 16, 4>(args, plan.blocks(), stream, early);
    case 4: return run_form<4, 16, 5>(args, plan.blocks(), stream, early);
    default: return run_form<8, kFewBits, 5>(args, plan.blocks(), stream, early);
  }
}

// A set of matrices with the same input.
struct Linears {
  std::vector<int> rows;
  int columns;
  Prologue prologue = Prologue::kNone;
};

PlanePlan plan(const Linears& linears, const std::vector<std::vector<uint8_t>>& rates, int tokens, const Variant& way) {
  int tiles = 0;
  for (size_t i = 0; i < linears.rows.size(); ++i) {
    int planes = 0;
    for (int r = 0; r < linears.rows[i]; ++r) planes += rates[i][r / 32];
    tiles += (planes + kTileRows - 1) / kTileRows;
  }
  PlanePlan plan = plan_planes(linears.columns, tiles, tokens, g_sms, way.most_groups);
  plan.rounds = plan.rounds && way.rounds;
  return plan;
}

// Device memory of one fused set of matrices.
struct Weights {
  std::vector<uint32_t*> tiles;
  std::vector<void*> other;
  PlaneArgs args;
  uint8_t* sign;
  int64_t bytes = 0;
  std::vector<std::vector<int32_t>> newest, band_order;  // band_order: none where all rows have a rate
  std::vector<std::vector<uint8_t>> rates;
};

Weights make_weights(const Linears& linears, const std::vector<std::vector<uint8_t>>& rates, uint64_t seed, float* output) {
  Weights weights;
  const int groups = (linears.columns + kGroupColumns - 1) / kGroupColumns;
  weights.args.jobs = static_cast<int>(linears.rows.size());
  int tiles_before = 0, ranges_before = 0;
  std::vector<float> taps(kRates * kMaxTaps);
  for (int k = 1; k < kRates; ++k)
    for (int j = 0; j < 12; ++j) taps[k * kMaxTaps + j] = static_cast<float>(mix(77 + k * 100 + j) & 0xffff) / 65536.0f - 0.5f;
  float* device_taps = device(taps);
  for (size_t i = 0; i < linears.rows.size(); ++i) {
    PlaneJob& job = weights.args.job[i];
    std::vector<int32_t> newest;
    int planes = 0;
    for (int r = 0; r < linears.rows[i]; ++r) {
      planes += rates[i][r / 32];
      if (r % 32 == 0) newest.push_back(planes - 1);
    }
    const int tile_rows = (planes + kTileRows - 1) / kTileRows;
    const int64_t bytes = static_cast<int64_t>(tile_rows) * groups * kTileBytes;
    auto* tiles = device<uint32_t>(bytes / 4);
    fill_words<<<1024, 256>>>(tiles, bytes / 4, seed * 16 + i);
    weights.tiles.push_back(tiles);
    weights.newest.push_back(newest), weights.rates.push_back(rates[i]);
    weights.bytes += bytes;
    std::vector<int32_t> reach;
    for (int t = 0, low = 0, high = 0; t < tile_rows; ++t) {
      const auto end = [&](int range) { return newest[range] + (std::min(32, linears.rows[i] - 32 * range) - 1) * rates[i][range] + 1; };
      while (end(low) <= t * kTileRows) ++low;
      while (high + 1 < static_cast<int>(newest.size()) && newest[high + 1] - 12 + 1 < (t + 1) * kTileRows) ++high;
      reach.push_back(low), reach.push_back(high);
    }
    std::vector<uint16_t> scale(linears.rows[i]);
    for (size_t r = 0; r < scale.size(); ++r) scale[r] = static_cast<uint16_t>(0x2000 + (mix(r) & 0x3ff));  // f16 in [2^-7, 2^-6)
    job.rate = device(rates[i]), job.newest = device(newest), job.reach = device(reach), job.row_scale = device(scale),
    job.taps = device_taps;
    job.tiles = tiles, job.rows = linears.rows[i], job.plane_rows = planes;
    const bool is_uniform = std::all_of(rates[i].begin(), rates[i].end(), [&](uint8_t rate) { return rate == rates[i][0]; });
    weights.band_order.push_back(is_uniform || job.rows % kBandRows != 0 ? std::vector<int32_t>()
                                                                         : bands_by_rate(rates[i].data(), job.rows));
    if (!weights.band_order.back().empty()) job.band_order = device(weights.band_order.back());
    job.closing_tile = std::max(0, planes + newest[0] - 11) / kTileRows;
    job.first_tile = tiles_before, job.first_range = ranges_before;
    tiles_before += job.tile_count(), ranges_before += job.range_count();
    for (int k = 1; k < kRates; ++k) job.windows[k] = 12;
    job.output = output;
    output += static_cast<int64_t>(kMostTokens) * job.rows;
  }
  std::vector<uint8_t> sign((linears.columns + 7) / 8);
  for (size_t i = 0; i < sign.size(); ++i) sign[i] = static_cast<uint8_t>(mix(i + 9));
  weights.sign = device(sign);
  return weights;
}

struct Scratch {
  Activations input;
  float* partial;
  float* totals;
  uint32_t* arrived;
};

constexpr int kHalfShared = 112 << 10;  // fits beside kRoomyShared
constexpr int kRoomyShared = 114 << 10;

template <int kPairs>
void run_rows(const PlaneRowsArgs& args, cudaStream_t stream, bool early) {
  const int shared = std::max(args.least_shared, PlaneRows<5, kPairs>::shared_bytes(args)), blocks = args.owners.first[args.jobs];
  auto* kernel = &plane_rows_kernel<5, kPairs>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  launch_clusters(kernel, dim3(static_cast<unsigned>(blocks)), args.owners.slices, kProductWarps * 32, shared, stream, early, args);
}

PlaneRowsArgs rows_args(const Weights& weights, const QuantizeArgs& quantize, const Variant& way, bool adds) {
  PlaneRowsArgs args;
  RowShape shapes[kMaxJobs];
  args.jobs = weights.args.jobs, args.groups = (quantize.columns + kGroupColumns - 1) / kGroupColumns;
  args.adds = adds, args.launches_late = way.launches_late, args.least_shared = way.is_roomy ? kRoomyShared : 0, args.input = quantize;
  for (int m = 0; m < args.jobs; ++m) {
    args.job[m] = weights.args.job[m];
    shapes[m] = {args.job[m].rows, args.job[m].plane_rows, weights.rates[m].data(), weights.newest[m].data(), args.job[m].windows};
  }
  const int blocks = way.blocks ? way.blocks : way.slices == 1 ? g_sms : g_sms / 4 * 4 / way.slices * way.slices;
  if (!share_rows(shapes, args.jobs, way.slices, blocks, args.owners)) std::printf("cannot share rows\n"), std::exit(1);
  return args;
}

void enqueue_rows(const Weights& weights, const QuantizeArgs& quantize, const Variant& way, bool adds, cudaStream_t stream, bool early) {
  PlaneRowsArgs args = rows_args(weights, quantize, way, adds);
  if (PlaneRows<5, 4>::shared_bytes(args) > kHalfShared) run_rows<2>(args, stream, early);
  else run_rows<4>(args, stream, early);
}

const Variant* g_way = nullptr;
bool g_adds = false;
int g_parts = 7;  // 1: the rounding where it is a kernel of its own, 2: the product

void enqueue(const Linears& linears, const Weights& weights, const PlanePlan& plan, int tokens, const float* input, const Scratch& scratch,
             cudaStream_t stream, bool early) {
  QuantizeArgs quantize;
  quantize.input.input = input, quantize.input.stride = linears.columns, quantize.sign = weights.sign, quantize.tokens = tokens,
  quantize.columns = linears.columns;
  quantize.input.prologue = linears.prologue, quantize.input.other = input + kMostInput, quantize.input.epsilon = 1e-5f;
  quantize.hadamard = 256, quantize.form = plan.form, quantize.output = scratch.input;
  if (!plan.rounds && (g_parts & 1))
    launch(&quantize_kernel<false>,
           dim3(static_cast<unsigned>((plan.split.groups + kRoundWarps - 1) / kRoundWarps), static_cast<unsigned>(tokens)),
           kRoundWarps * 32, 0, stream, early, quantize);
  if (plan.rounds && g_way && g_way->slices > 0) return enqueue_rows(weights, quantize, *g_way, g_adds, stream, early);
  PlaneArgs args = weights.args;
  args.adds = g_adds, args.tokens = tokens, args.split = plan.split;
  if (plan.rounds) args.input = quantize;
  args.activations = scratch.input;
  args.partial = scratch.partial, args.totals = scratch.totals, args.arrived = scratch.arrived;
  if (g_parts & 2) run_product(args, plan, stream, early);
}

int64_t band_sums(int form) { return int64_t{g_sms} * kBandSums * form; }

Scratch make_scratch(int64_t columns, int64_t partial) {
  const int64_t groups = columns / kGroupColumns + 1;
  Scratch scratch{
      {device<uint32_t>(groups * band_group_words(kBandTokens)), device<float>(groups * kBandTokens), device<float>(groups * kBandTokens)},
      device<float>(partial),
      device<float>(256),
      device<uint32_t>(1 << 14)};
  CHECK(cudaMemset(scratch.arrived, 0, 4 << 14));
  return scratch;
}

int bit_of(const std::vector<uint32_t>& tiles, int groups, int plane, int column) {
  const int64_t tile = static_cast<int64_t>(plane / kTileRows) * groups + column / 256;
  return tiles[tile * 128 + tile_word(plane % kTileRows, column % 256 / 32)] >> (column % 32) & 1;
}

// Rounded value of a token, from the words of the activations.
int rounded(const std::vector<uint32_t>& words, const Form& form, int token, int k) {
  int value = 0;
  for (int bit = 0; bit < form.bits; ++bit) {
    const int column = token + form.tokens * (bit / form.products()), product = bit % form.products(), word = k % 256 / 32;
    const size_t at = static_cast<size_t>(k / 256) * form.products() * 64 + activation_word(product, column, word);
    value |= static_cast<int>(words[at] >> (k % 32) & 1) << bit;
  }
  return static_cast<int>(static_cast<uint32_t>(value) << (32 - form.bits)) >> (32 - form.bits);
}

void add_biases(Weights& weights) {
  for (int m = 0; m < weights.args.jobs; ++m) {
    std::vector<float> bias(weights.args.job[m].rows);
    for (size_t r = 0; r < bias.size(); ++r) bias[r] = r % 3 ? static_cast<float>(r % 7) * 0.01f : 0.0f;
    weights.args.job[m].bias = device(bias);
  }
}

// Largest difference of outputs from a scalar in double over rounded activations, relative to the largest output.
double difference(const Linears& linears, const std::vector<std::vector<uint8_t>>& rates, const Weights& weights, int tokens, bool adds,
                  bool biased, const std::function<double(int, int)>& value, const std::vector<float>& got) {
  const int groups = (linears.columns + kGroupColumns - 1) / kGroupColumns;
  const auto count = static_cast<size_t>(tokens);
  std::vector<double> x(static_cast<size_t>(linears.columns) * count), total(count);
  for (int k = 0; k < linears.columns; ++k)
    for (int t = 0; t < tokens; ++t) total[t] += x[k * count + t] = value(t, k);
  double worst = 0, largest = 0;
  size_t base = 0;
  for (size_t m = 0; m < linears.rows.size(); ++m) {
    const PlaneJob& job = weights.args.job[m];
    std::vector<uint32_t> tiles(static_cast<size_t>(job.tile_count()) * groups * 128);
    CHECK(cudaMemcpy(tiles.data(), weights.tiles[m], tiles.size() * 4, cudaMemcpyDeviceToHost));
    std::vector<float> taps(kRates * kMaxTaps);
    CHECK(cudaMemcpy(taps.data(), job.taps, taps.size() * 4, cudaMemcpyDeviceToHost));
    std::vector<double> z(static_cast<size_t>(job.plane_rows) * count);
    for (int p = 0; p < job.plane_rows; ++p)
      for (int k = 0; k < linears.columns; ++k)
        if (bit_of(tiles, groups, p, k))
          for (size_t t = 0; t < count; ++t) z[p * count + t] += x[k * count + t];
    int newest = -1;
    for (int r = 0; r < job.rows; ++r) {
      const int rate = rates[m][r / 32];
      newest += rate;
      for (int t = 0; t < tokens; ++t) {
        double y = 0, tap_sum = 0;
        for (int j = 0; j < 12; ++j) {
          int p = newest - j;
          if (p < 0) p += job.plane_rows;
          y += taps[rate * kMaxTaps + j] * z[p * count + t], tap_sum += taps[rate * kMaxTaps + j];
        }
        const double scale = (1.0 + static_cast<double>(mix(r) & 0x3ff) / 1024) / 128;
        const size_t at = base + static_cast<size_t>(t) * job.rows + r;
        const double before = adds ? static_cast<double>(mix(4 + at) & 0xffffff) / 8388608.0 - 1.0 : 0.0;
        const double bias = biased && r % 3 ? (r % 7) * 0.01 : 0.0;
        const double expected = scale * (2 * y - total[t] * tap_sum) + before + bias, own = got[at];
        worst = std::isfinite(own) ? std::max(worst, std::abs(own - expected)) : INFINITY;
        largest = std::max(largest, std::abs(expected));
      }
    }
    base += static_cast<size_t>(job.rows) * kMostTokens;
  }
  return worst / largest;
}

// Largest difference of a variant's outputs from a scalar in double over the same rounded activations, relative to the largest output.
double check(const Linears& linears, const std::vector<std::vector<uint8_t>>& rates, int tokens, const Variant& way, bool adds = false,
             bool biased = false) {
  const PlanePlan shape = plan(linears, rates, tokens, way);
  int total_rows = 0;
  for (const int rows : linears.rows) total_rows += rows;
  std::vector<float> poison(static_cast<size_t>(total_rows) * kMostTokens, NAN);
  float* output = device(poison);
  Weights weights = make_weights(linears, rates, 5, output);
  if (biased) add_biases(weights);
  float* input = device<float>(2 * kMostInput);
  fill_floats<<<64, 256>>>(input, 2 * kMostInput, 3);
  const Scratch scratch = make_scratch(linears.columns, shape.partial_floats());
  CHECK(cudaMemset(scratch.partial, 0xff, shape.partial_floats() * 4));
  CHECK(cudaMemset(scratch.input.words, 0, (linears.columns / 256 + 1) * 2048));
  PlanePlan apart = shape;  // its rounding is what is compared with
  apart.rounds = false;
  g_way = &way;
  std::vector<float> first;
  for (int turn = 0; turn < 4; ++turn) {  // again and again: the counters must be as before, and so must the sums
    g_adds = false;
    enqueue(linears, weights, apart, tokens, input, scratch, nullptr, false);
    g_adds = adds;
    if (adds) fill_floats<<<64, 256>>>(output, static_cast<int64_t>(poison.size()), 4);
    else CHECK(cudaMemset(output, 0xff, poison.size() * 4));
    enqueue(linears, weights, shape, tokens, input, scratch, nullptr, false);
    std::vector<float> now(poison.size());
    CHECK(cudaMemcpy(now.data(), output, now.size() * 4, cudaMemcpyDeviceToHost));
    if (turn == 0) first = now;
    else if (std::memcmp(now.data(), first.data(), now.size() * 4) != 0) return std::printf("not the same twice\n"), INFINITY;
  }
  g_adds = false, g_way = nullptr;
  CHECK(cudaDeviceSynchronize());
  const int groups = shape.split.groups;
  std::vector<uint32_t> words(static_cast<size_t>(groups) * shape.form.products() * 64);
  std::vector<float> scales(static_cast<size_t>(groups * shape.form.tokens)), got(poison.size());
  CHECK(cudaMemcpy(words.data(), scratch.input.words, words.size() * 4, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(scales.data(), scratch.input.scales, scales.size() * 4, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(got.data(), output, got.size() * 4, cudaMemcpyDeviceToHost));
  const auto value = [&](int token, int k) {
    return static_cast<double>(scales[static_cast<size_t>(k / 256 * shape.form.tokens + token)]) * rounded(words, shape.form, token, k);
  };
  return difference(linears, rates, weights, tokens, adds, biased, value, got);
}

std::vector<std::vector<uint8_t>> uniform(const Linears& linears, int rate) {
  std::vector<std::vector<uint8_t>> rates;
  for (const int rows : linears.rows) rates.emplace_back((rows + 31) / 32, static_cast<uint8_t>(rate));
  return rates;
}

double median_us(const std::function<void(cudaStream_t)>& enqueue_all, int layers) {
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  enqueue_all(stream);
  CHECK(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue_all(stream);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    CHECK(cudaEventRecord(begin, stream));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaStreamSynchronize(stream));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  return 1000.0 * times[times.size() / 2] / layers;
}

double read_gigabytes_per_second() {
  const int64_t count = int64_t{2} << 30 >> 4;
  auto* words = device<uint4>(count);
  fill_words<<<1024, 256>>>(reinterpret_cast<uint32_t*>(words), count * 4, 1);
  auto* sink = device<uint32_t>(1);
  double best = 0;
  for (const int per_sm : {8, 16, 32}) {
    const double us = median_us([&](cudaStream_t stream) { read_loop<<<g_sms * per_sm, 256, 0, stream>>>(words, count, sink); }, 1);
    best = std::max(best, static_cast<double>(count) * 16 / us / 1e3);
  }
  CHECK(cudaFree(words));
  return best;
}

struct Layer {
  const char* name;
  std::vector<Linears> linears;
};
const Layer kLayers[] = {{"8b",
                          {{{4096, 1024, 1024}, 4096, Prologue::kNorm},
                           {{4096}, 4096},
                           {{14336, 14336}, 4096, Prologue::kNorm},
                           {{4096}, 14336, Prologue::kGated}}},
                         {"70b",
                          {{{8192, 1024, 1024}, 8192, Prologue::kNorm},
                           {{8192}, 8192},
                           {{28672, 28672}, 8192, Prologue::kNorm},
                           {{8192}, 28672, Prologue::kGated}}}};

double half_layer_us(const Layer& layer, int tokens) {
  cublasHandle_t handle;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return std::printf("no cublas\n"), 0;
  void* workspace = device<char>(64 << 20);
  cublasSetWorkspace(handle, workspace, 64 << 20);
  constexpr int kCopies = 2;
  std::vector<__half*> weights;
  for (int c = 0; c < kCopies; ++c)
    for (const Linears& linears : layer.linears) {
      int64_t rows = 0;
      for (const int r : linears.rows) rows += r;
      weights.push_back(device<__half>(rows * linears.columns));
      fill_halves<<<1024, 256>>>(weights.back(), rows * linears.columns, weights.size());
    }
  auto* input = device<__half>(kMostInput);
  auto* output = device<__half>(2 * kMostInput);
  fill_halves<<<64, 256>>>(input, kMostInput, 9);
  const double us = median_us(
      [&](cudaStream_t stream) {
        cublasSetStream(handle, stream);
        cublasSetWorkspace(handle, workspace, 64 << 20);
        const float one = 1, zero = 0;
        size_t at = 0;
        for (int c = 0; c < kCopies; ++c)
          for (const Linears& linears : layer.linears) {
            int rows = 0;
            for (const int r : linears.rows) rows += r;
            cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, rows, tokens, linears.columns, &one, weights[at++], CUDA_R_16F, linears.columns,
                         input, CUDA_R_16F, linears.columns, &zero, output, CUDA_R_16F, rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
          }
      },
      kCopies);
  for (__half* memory : weights) CHECK(cudaFree(memory));
  CHECK(cudaFree(workspace));
  CHECK(cudaFree(input));
  CHECK(cudaFree(output));
  cublasDestroy(handle);
  return us;
}

struct PackedLayer {
  std::vector<std::vector<Weights>> copies;
  float* output;
  float* input;
  Scratch scratch;
  int64_t bytes = 0;
};

PackedLayer make_layer(const Layer& layer, int rate) {
  PackedLayer packed;
  const int copies = std::strcmp(layer.name, "8b") == 0 ? 8 : 4;
  packed.output = device<float>(int64_t{kMostTokens} * 70000);
  packed.input = device<float>(2 * kMostInput);
  fill_floats<<<64, 256>>>(packed.input, 2 * kMostInput, 3);
  packed.scratch = make_scratch(28672, std::max(int64_t{48} << 20, band_sums(kBandTokens)));
  for (int c = 0; c < copies; ++c) {
    packed.copies.emplace_back();
    for (size_t i = 0; i < layer.linears.size(); ++i) {
      packed.copies.back().push_back(
          make_weights(layer.linears[i], uniform(layer.linears[i], rate), static_cast<uint64_t>(100 * c) + i, packed.output));
      if (c == 0) packed.bytes += packed.copies.back().back().bytes;
    }
  }
  CHECK(cudaDeviceSynchronize());
  return packed;
}

void free_layer(PackedLayer& packed) {
  for (auto& copy : packed.copies)
    for (Weights& weights : copy)
      for (uint32_t* tiles : weights.tiles) CHECK(cudaFree(tiles));
  CHECK(cudaFree(packed.scratch.partial));
  CHECK(cudaFree(packed.output));
  CHECK(cudaFree(packed.input));
}

// Layers of a model in turn, one token: q k v, attention, o, gate up, down, each with its own weights, keys and values.
struct Ways {
  Variant way[4];
  bool attends = true;
};

struct Chain {
  const Layer& layer;
  int heads, kv_heads = 8, dim = 128;
  std::vector<std::vector<Weights>> copies;
  std::vector<char*> keys, values;
  float *hidden, *fused, *mixed, *gate_up, *norm, *frequencies, *attend_partial;
  uint32_t* attend_arrived;
  Place* place;
  Scratch scratch;
  int64_t bytes = 0;
  int capacity;

  int width() const { return layer.linears[0].columns; }
  int inner() const { return layer.linears[3].columns; }

  Chain(const Layer& layer_, int rate, int count, int capacity_) : layer(layer_), capacity(capacity_) {
    heads = layer.linears[0].rows[0] / dim;
    hidden = device<float>(width()), fused = device<float>(layer.linears[0].rows[0] + 2048), mixed = device<float>(width());
    gate_up = device<float>(2 * inner()), norm = device<float>(width());
    frequencies = device<float>(64), attend_partial = device<float>(int64_t{heads} * 32 * (dim + 2));
    attend_arrived = device<uint32_t>(1 << 12), place = device<Place>(1);
    CHECK(cudaMemset(attend_arrived, 0, 4 << 12));
    fill_floats<<<8, 256>>>(hidden, width(), 1), fill_floats<<<8, 256>>>(norm, width(), 2), fill_floats<<<1, 64>>>(frequencies, 64, 3);
    scratch = make_scratch(28672, int64_t{8} << 20);
    for (int c = 0; c < count; ++c) {
      copies.emplace_back();
      for (size_t i = 0; i < 4; ++i) {
        copies.back().push_back(
            make_weights(layer.linears[i], uniform(layer.linears[i], rate), static_cast<uint64_t>(100 * c) + i, nullptr));
        Weights& weights = copies.back().back();
        float* output = i == 0 ? fused : i == 2 ? gate_up : hidden;
        for (int m = 0; m < weights.args.jobs; ++m) weights.args.job[m].output = output, output += weights.args.job[m].rows;
        if (c == 0) bytes += weights.bytes;
      }
      const int64_t side = int64_t{2} * kv_heads * dim * capacity;
      keys.push_back(device<char>(side)), values.push_back(device<char>(side));
      fill_halves<<<256, 256>>>(reinterpret_cast<__half*>(keys.back()), side / 2, 5);
      fill_halves<<<256, 256>>>(reinterpret_cast<__half*>(values.back()), side / 2, 6);
    }
    set_position(capacity - 12);
  }
  ~Chain() {
    for (auto& copy : copies)
      for (Weights& weights : copy)
        for (uint32_t* tiles : weights.tiles) CHECK(cudaFree(tiles));
    for (char* memory : keys) CHECK(cudaFree(memory));
    for (char* memory : values) CHECK(cudaFree(memory));
    CHECK(cudaFree(scratch.partial));
  }
  void set_position(int64_t position) const {
    const Place at{nullptr, position};
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(place, &at, sizeof at, cudaMemcpyHostToDevice));
  }

  void linear(size_t copy, size_t i, const Variant& way, cudaStream_t stream) const {
    const Linears& linears = layer.linears[i];
    const Weights& weights = copies[copy][i];
    QuantizeArgs quantize;
    quantize.input.prologue = linears.prologue, quantize.input.input = i == 1 ? mixed : i == 3 ? gate_up : hidden;
    quantize.input.other = i == 3 ? gate_up + inner() : norm, quantize.input.stride = linears.columns, quantize.input.epsilon = 1e-5f;
    quantize.sign = weights.sign, quantize.tokens = 1, quantize.columns = linears.columns, quantize.hadamard = 256;
    const bool adds = i % 2 == 1;
    if (way.slices > 0) return enqueue_rows(weights, quantize, way, adds, stream, true);
    const PlanePlan shape = plan(linears, weights.rates, 1, way);
    PlaneArgs args = weights.args;
    quantize.form = shape.form;
    args.adds = adds, args.tokens = 1, args.split = shape.split, args.input = quantize;
    args.least_shared = way.is_roomy ? kRoomyShared : 0;
    args.partial = scratch.partial, args.totals = scratch.totals, args.arrived = scratch.arrived;
    run_product(args, shape, stream, true);
  }
  void attend(size_t copy, cudaStream_t stream) const {
    AttendArgsDevice args;
    args.query = fused, args.output = mixed, args.partial = attend_partial, args.arrived = attend_arrived, args.tokens = 1;
    args.heads = heads, args.stride = width(), args.scale = 0.088f, args.place = place;
    args.splits = std::clamp(g_sms / kv_heads / ((heads / kv_heads + 3) / 4), 1, std::min((capacity + 63) / 64, 32));
    args.kv = {1, keys[copy], values[copy], kv_heads, dim, 5, 2 * dim, dim};
    args.rotates = args.is_settled = true;
    args.rotate.key = fused + width(), args.rotate.value = fused + width() + kv_heads * dim, args.rotate.key_stride = kv_heads * dim;
    args.rotate.inv_freq = frequencies, args.rotate.half = dim / 2, args.rotate.heads = heads, args.rotate.tokens = 1;
    args.rotate.place = place, args.rotate.kv = args.kv;
    tq::cuda::attend(args, stream);
  }
  void run(const Ways& ways, size_t count, cudaStream_t stream) const {
    for (size_t c = 0; c < count; ++c)
      for (size_t i = 0; i < 4; ++i) {
        linear(c, i, ways.way[i], stream);
        if (i == 0 && ways.attends) attend(c, stream);
      }
  }
  double us(const Ways& ways, size_t count) const {
    return median_us([&](cudaStream_t stream) { run(ways, count, stream); }, static_cast<int>(count));
  }
};

std::string text(const Variant& way) {
  if (way.slices == 0) return way.is_roomy ? "shared roomy" : "shared";
  char all[40];
  std::snprintf(all, sizeof all, "rows/%d%s%s", way.slices, way.launches_late ? " late" : "", way.is_roomy ? " roomy" : "");
  return all;
}
std::string text(const Ways& ways) {
  std::string all;
  for (const Variant& way : ways.way) all.append(text(way)).append(", ");
  return all.append(ways.attends ? "attention" : "no attention");
}

Variant rows_way(int slices, bool launches_late = false, bool is_roomy = false) {
  return {"rows", true, 0, slices, launches_late, is_roomy};
}

// A slice's groups are rounded two a warp at most.
bool fits(const Linears& linears, int slices) {
  const int groups = (linears.columns + 255) / 256;
  return groups >= slices && (groups + slices - 1) / slices <= kMaxRoundGroups;
}

void rows_check() {
  const Linears small[] = {{{256, 96, 64}, 768, Prologue::kNorm},
                           {{640}, 1024},
                           {{224, 512}, 4352, Prologue::kGated},
                           {{400}, 9216},
                           {{5000, 40}, 512},
                           {{4096}, 2048, Prologue::kNorm},
                           {{1024, 1000, 264}, 4096, Prologue::kNorm}};
  for (const int slices : {1, 2, 4, 8}) {
    double worst = 0;
    int done = 0;
    for (const Linears& linears : small)
      for (const bool is_mixed : {false, true}) {
        bool is_possible = fits(linears, slices);
        for (const int rows : linears.rows) is_possible = is_possible && (rows + 15) / 16 >= slices;
        if (!is_possible) continue;
        auto rates = uniform(linears, 3);
        if (is_mixed)
          for (auto& of_matrix : rates)
            for (size_t i = 0; i < of_matrix.size(); ++i) of_matrix[i] = static_cast<uint8_t>(2 + mix(i * 7 + of_matrix.size()) % 4);
        Variant way = rows_way(slices, is_mixed);
        if (is_mixed && done % 2) way.blocks = 8 * slices;
        worst = std::max(worst, check(linears, rates, 1, way, is_mixed, is_mixed)), ++done;
      }
    std::printf("{\"check\": \"rows/%d\", \"cases\": %d, \"error\": %.2e, \"good\": %s}\n", slices, done, worst,
                worst < 1e-5 ? "true" : "false");
  }
}

void rows_bench(const Layer& layer, int rate, int count) {
  const Chain chain(layer, rate, count, 512);
  const auto measure = [&](const Ways& ways) {
    const double us = chain.us(ways, static_cast<size_t>(count));
    std::printf("{\"layer\": \"%s\", \"bits\": %d, \"ways\": \"%s\", \"us\": %.2f}\n", layer.name, rate, text(ways).c_str(), us);
    return us;
  };
  Ways best;
  for (Variant& way : best.way) way = {"shared", true, 0};
  for (const bool is_roomy : {false, true})
    for (const bool attends : {false, true}) {
      best.attends = attends, best.way[1].is_roomy = best.way[3].is_roomy = is_roomy;
      measure(best);
    }
  for (const bool is_roomy : {false, true}) {
    for (size_t i = 0; i < 4; ++i) {
      const int groups = layer.linears[i].columns / 256;
      best.way[i] = groups > 64 ? Variant{"shared", true, 0} : rows_way(groups > 16 ? 2 : 1, i % 2 == 0);
      best.way[i].is_roomy = is_roomy && i % 2 == 1;
    }
    if (!is_roomy) measure(best);
  }
  double least = measure(best);
  for (size_t i = 0; i < 4; ++i)
    for (const int slices : {1, 2, 4, 8})
      for (const bool launches_late : {false, true}) {
        const bool is_shared = slices == 8 && launches_late;
        if (slices > 2 && !is_shared) continue;
        if (!is_shared && !fits(layer.linears[i], slices)) continue;
        Ways ways = best;
        ways.way[i] = is_shared ? Variant{"shared", true, 0} : rows_way(slices, launches_late);
        ways.way[i].is_roomy = i % 2 == 1;
        if (const double us = measure(ways); us < least) least = us, best = ways;
      }
}

// The head of an 8B model at 6 bits, alone, and with the choice of a token.
void head_bench() {
  const Linears head{{128256}, 4096, Prologue::kNorm};
  Layer layer{"head", {head, head, head, head}};
  float* logits = device<float>(128256);
  float* input = device<float>(2 * kMostInput);
  fill_floats<<<64, 256>>>(input, 2 * kMostInput, 3);
  std::vector<Weights> copies;
  for (int c = 0; c < 4; ++c) copies.push_back(make_weights(head, uniform(head, 6), static_cast<uint64_t>(c), logits));
  const Scratch scratch = make_scratch(4096, int64_t{4} << 20);
  auto* chosen = device<tq::cuda::ArgmaxState>(1);
  CHECK(cudaMemset(chosen, 0, sizeof *chosen));
  const PlanePlan shape = plan(head, uniform(head, 6), 1, {"shared", true, 0});
  for (const bool chooses : {false, true}) {
    const double us = median_us(
        [&](cudaStream_t stream) {
          for (const Weights& weights : copies) {
            enqueue(head, weights, shape, 1, input, scratch, stream, true);
            if (chooses) tq::cuda::argmax(logits, 128256, chosen, stream);
          }
        },
        4);
    std::printf("{\"head\": \"%s\", \"us\": %.1f, \"gbs\": %.0f}\n", chooses ? "with argmax" : "alone", us,
                static_cast<double>(copies[0].bytes) / us / 1e3);
  }
  for (const Weights& weights : copies) CHECK(cudaFree(weights.tiles[0]));
}

double packed_layer_us(const Layer& layer, const PackedLayer& packed, int rate, int tokens, const Variant& way, bool early) {
  std::vector<PlanePlan> plans;
  for (const Linears& linears : layer.linears) {
    plans.push_back(plan(linears, uniform(linears, rate), tokens, way));
    if (plans.back().partial_floats() > int64_t{48} << 20) return -1;
  }
  return median_us(
      [&](cudaStream_t stream) {
        for (const auto& copy : packed.copies)
          for (size_t i = 0; i < layer.linears.size(); ++i)
            enqueue(layer.linears[i], copy[i], plans[i], tokens, packed.input, packed.scratch, stream, early);
      },
      static_cast<int>(packed.copies.size()));
}

std::vector<Variant> variants() {
  return {{"as planned", true, 0}, {"slices of 32 groups", true, 32}, {"slices of 16 groups", true, 16}, {"rounding apart", false, 0}};
}

void run_checks() {
  const Linears small[] = {
      {{256, 96, 64}, 768, Prologue::kNorm}, {{640}, 1024}, {{224, 512}, 4352, Prologue::kGated}, {{400}, 9216}, {{5000, 40}, 512}};
  for (const Variant& way : variants())
    for (const int tokens : {1, 2, 3, 4, 5, 8}) {
      if (tokens > 1 && way.rounds) continue;
      double worst = 0;
      for (const Linears& linears : small) {
        auto rates = uniform(linears, 3);
        for (auto& of_matrix : rates)
          for (size_t i = 0; i < of_matrix.size(); ++i) of_matrix[i] = static_cast<uint8_t>(2 + mix(i * 7 + of_matrix.size()) % 4);
        worst = std::max(worst, check(linears, rates, tokens, way));
      }
      std::printf("{\"check\": \"%s\", \"tokens\": %d, \"error\": %.2e, \"good\": %s}\n", way.name.c_str(), tokens, worst,
                  worst < 1e-5 ? "true" : "false");
      std::fflush(stdout);
    }
}

// Many tokens at a time, as PlanePass has it.
ManyPlan many_plan(const Linears& linears, const Weights& weights, int tokens, bool has_pairs, bool is_invariant) {
  const PlaneJob& last = weights.args.job[weights.args.jobs - 1];
  int rows = 0;
  for (const int each : linears.rows) rows += each;
  return plan_many(linears.columns, rows, last.first_tile + last.tile_count(), last.first_range + last.range_count(), weights.args.jobs,
                   tokens, has_pairs, is_invariant, g_sms);
}

// first: token of the input.
void enqueue_many(const Linears& linears, const Weights& weights, const ManyPlan& plan, int tokens, const float* input,
                  const Scratch& scratch, cudaStream_t stream, int first = 0) {
  const bool is_gated = linears.prologue == Prologue::kGated;
  QuantizeArgs quantize;
  quantize.input.input = input + int64_t{first} * linears.columns, quantize.input.stride = linears.columns;
  quantize.sign = weights.sign, quantize.tokens = tokens, quantize.columns = linears.columns;
  quantize.input.prologue = linears.prologue, quantize.input.epsilon = 1e-5f;
  quantize.input.other = (is_gated ? quantize.input.input : input) + kMostInput;
  quantize.hadamard = 256, quantize.form = plan.form, quantize.to = Rounded::kBytes, quantize.output = scratch.input;
  if (g_parts & 1) tq::cuda::quantize(quantize, stream);
  ManyArgs args;
  for (int m = 0; m < weights.args.jobs; ++m) args.job[m] = weights.args.job[m];
  args.jobs = weights.args.jobs, args.tokens = tokens, args.form = plan.form, args.split = plan.split, args.adds = g_adds;
  args.activations = scratch.input, args.partial = scratch.partial;
  if (g_parts & 2) plane_many(args, plan, stream);
}

std::vector<std::vector<uint8_t>> mixed(const Linears& linears) {
  std::vector<std::vector<uint8_t>> rates;
  for (const int rows : linears.rows) {
    rates.emplace_back((rows + 31) / 32);
    for (size_t i = 0; i < rates.back().size(); ++i) rates.back()[i] = static_cast<uint8_t>(2 + mix(i * 7 + rates.back().size()) % 4);
  }
  return rates;
}

struct ManyCase {
  int tokens;
  bool has_pairs = false, is_invariant = false, adds = false;
  int first = 0;  // of the tokens of the input
};

// As check(). outputs: of all tokens, a matrix after the other.
double check_many(const Linears& linears, const ManyCase& what, std::vector<float>* outputs = nullptr) {
  const auto rates = mixed(linears);
  int total_rows = 0;
  for (const int rows : linears.rows) total_rows += rows;
  std::vector<float> got(static_cast<size_t>(total_rows) * kMostTokens, NAN);
  float* output = device(got);
  Weights weights = make_weights(linears, rates, 5, output);
  if (what.adds) add_biases(weights);
  const ManyPlan plan = many_plan(linears, weights, what.tokens, what.has_pairs, what.is_invariant);
  float* input = device<float>(2 * kMostInput);
  fill_floats<<<64, 256>>>(input, 2 * kMostInput, 3);
  const Scratch scratch = make_scratch(linears.columns, plan.partial_floats());
  CHECK(cudaMemset(scratch.partial, 0xff, plan.partial_floats() * 4));
  g_adds = what.adds, g_parts = 7;
  std::vector<float> once;
  for (int turn = 0; turn < 3; ++turn) {
    if (what.adds) fill_floats<<<64, 256>>>(output, static_cast<int64_t>(got.size()), 4);
    else CHECK(cudaMemset(output, 0xff, got.size() * 4));
    enqueue_many(linears, weights, plan, what.tokens, input, scratch, nullptr, what.first);
    CHECK(cudaMemcpy(got.data(), output, got.size() * 4, cudaMemcpyDeviceToHost));
    if (turn == 0) once = got;
    else if (std::memcmp(got.data(), once.data(), got.size() * 4) != 0) return std::printf("not the same twice\n"), INFINITY;
  }
  g_adds = false;
  std::vector<uint32_t> words(static_cast<size_t>(plan.words()));
  std::vector<float> scales(static_cast<size_t>(plan.split.groups * plan.form.tokens));
  CHECK(cudaMemcpy(words.data(), scratch.input.words, words.size() * 4, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(scales.data(), scratch.input.scales, scales.size() * 4, cudaMemcpyDeviceToHost));
  const auto value = [&](int token, int k) {
    const int column = k % 256, bytes = plan.form.bits / 8;
    int sum = 0;
    for (int byte = 0; byte < bytes; ++byte) {
      const size_t at = static_cast<size_t>(k / 256) * many_group_words(plan.form) +
                        many_word(plan.form, column % 8, column / 128, byte, token) + column % 128 / 32;
      const auto bits = static_cast<uint8_t>(words[at] >> (column % 32 / 8 * 8));
      sum += static_cast<int8_t>(bits) * (byte ? 256 : 1);
    }
    if (bytes == 2 && column % 2 == 1) sum *= 2;  // those of even steps are doubled
    return static_cast<double>(scales[static_cast<size_t>(k / 256 * plan.form.tokens + token)]) * sum;
  };
  const double worst = difference(linears, rates, weights, what.tokens, what.adds, what.adds, value, got);
  if (outputs) {
    outputs->clear();
    size_t base = 0;
    for (const int rows : linears.rows) {
      outputs->insert(outputs->end(), got.begin() + base, got.begin() + base + static_cast<size_t>(rows) * what.tokens);
      base += static_cast<size_t>(rows) * kMostTokens;
    }
  }
  for (void* memory : {static_cast<void*>(output), static_cast<void*>(input), static_cast<void*>(scratch.partial)}) CHECK(cudaFree(memory));
  return worst;
}

void run_many_checks() {
  const Linears small[] = {
      {{256, 96, 64}, 768, Prologue::kNorm},      {{640}, 1024}, {{224, 512}, 4352, Prologue::kGated}, {{400}, 9216}, {{5000, 40}, 512},
      {{4096, 1024, 1000}, 2048, Prologue::kNorm}};
  for (const bool has_pairs : {false, true})
    for (const int tokens : {1, 5, 9, 13, 16, 17, 31, 32}) {
      if (!has_pairs && tokens < 9) continue;
      double worst = 0;
      for (size_t i = 0; i < std::size(small); ++i)
        worst = std::max(worst, check_many(small[i], {tokens, has_pairs, has_pairs && i % 2 == 0, (i + tokens) % 3 == 0}));
      std::printf("{\"check\": \"many\", \"bits\": %d, \"tokens\": %d, \"error\": %.2e, \"good\": %s}\n", has_pairs ? 16 : 8, tokens, worst,
                  worst < 1e-5 ? "true" : "false");
      std::fflush(stdout);
    }
  bool is_same = true;
  for (const int rows : {640, 4096}) {
    const Linears one{{rows}, 4096, Prologue::kNorm};
    std::vector<float> all, part;
    check_many(one, {32, true, true, false}, &all);
    for (const ManyCase& what :
         {ManyCase{1, true, true, false, 31}, {5, true, true, false, 7}, {9, true, true, false}, {16, true, true, false, 3}}) {
      check_many(one, what, &part);
      is_same = is_same && std::memcmp(part.data(), all.data() + static_cast<size_t>(what.first) * rows, part.size() * 4) == 0;
    }
  }
  std::printf("{\"check\": \"the same bits in every batch\", \"good\": %s}\n", is_same ? "true" : "false");
}

// Rates of 1 to 6, each of 32 or 96 rows in turn.
std::vector<std::vector<uint8_t>> band_rates(const Linears& linears) {
  std::vector<std::vector<uint8_t>> rates;
  for (const int rows : linears.rows) {
    rates.emplace_back((rows + 31) / 32);
    for (size_t i = 0; i < rates.back().size(); ++i)
      rates.back()[i] = static_cast<uint8_t>(1 + mix(i / (i % 2 ? 1 : 3) * 7 + rates.back().size()) % 6);
  }
  return rates;
}

// Bands decoded in registers, as PlanePass has it.
void enqueue_bands(const Linears& linears, const Weights& weights, int form, int tokens, const float* input, const Scratch& scratch,
                   cudaStream_t stream) {
  QuantizeArgs quantize;
  quantize.input.input = input, quantize.input.stride = linears.columns;
  quantize.sign = weights.sign, quantize.tokens = tokens, quantize.columns = linears.columns;
  quantize.input.prologue = linears.prologue, quantize.input.epsilon = 1e-5f;
  quantize.input.other = input + kMostInput;
  quantize.hadamard = 256, quantize.form.tokens = form, quantize.to = Rounded::kHalves, quantize.output = scratch.input;
  if (g_parts & 1) tq::cuda::quantize(quantize, stream);
  BandArgs args;
  RowShape shapes[kMaxJobs];
  args.jobs = weights.args.jobs, args.tokens = tokens, args.form = form, args.adds = g_adds;
  for (int m = 0; m < weights.args.jobs; ++m) {
    args.job[m] = weights.args.job[m];
    shapes[m] = {args.job[m].rows,
                 args.job[m].plane_rows,
                 weights.rates[m].data(),
                 weights.newest[m].data(),
                 args.job[m].windows,
                 0,
                 weights.band_order[m].empty() ? nullptr : weights.band_order[m].data()};
  }
  if (!split_bands(shapes, args.jobs, linears.columns, form, g_sms, args.split)) std::printf("cannot share sets\n"), std::exit(1);
  args.activations = scratch.input, args.partial = scratch.partial, args.arrived = scratch.arrived;
  if (g_parts & 2) plane_bands(args, stream);
}

struct BandCase {
  int tokens, form;
  int rate = 0;  // 0: mixed ones
  bool adds = false;
};

// As check().
double check_bands(const Linears& linears, const BandCase& what) {
  const auto rates = what.rate > 0 ? uniform(linears, what.rate) : band_rates(linears);
  int total_rows = 0;
  for (const int rows : linears.rows) total_rows += rows;
  std::vector<float> got(static_cast<size_t>(total_rows) * kMostTokens, NAN);
  float* output = device(got);
  Weights weights = make_weights(linears, rates, 5, output);
  if (what.adds) add_biases(weights);
  float* input = device<float>(2 * kMostInput);
  fill_floats<<<64, 256>>>(input, 2 * kMostInput, 3);
  const Scratch scratch = make_scratch(linears.columns, band_sums(what.form));
  CHECK(cudaMemset(scratch.partial, 0xff, band_sums(what.form) * 4));
  g_adds = what.adds, g_parts = 7;
  std::vector<float> once;
  for (int turn = 0; turn < 3; ++turn) {
    if (what.adds) fill_floats<<<64, 256>>>(output, static_cast<int64_t>(got.size()), 4);
    else CHECK(cudaMemset(output, 0xff, got.size() * 4));
    enqueue_bands(linears, weights, what.form, what.tokens, input, scratch, nullptr);
    CHECK(cudaMemcpy(got.data(), output, got.size() * 4, cudaMemcpyDeviceToHost));
    if (turn == 0) once = got;
    else if (std::memcmp(got.data(), once.data(), got.size() * 4) != 0) return std::printf("not the same twice\n"), INFINITY;
  }
  g_adds = false;
  const int groups = (linears.columns + kGroupColumns - 1) / kGroupColumns;
  std::vector<__half> halves(static_cast<size_t>(groups) * band_group_words(what.form) * 2);
  std::vector<float> scales(static_cast<size_t>(what.form));
  CHECK(cudaMemcpy(halves.data(), scratch.input.words, halves.size() * 2, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(scales.data(), scratch.input.scales, scales.size() * 4, cudaMemcpyDeviceToHost));
  const auto value = [&](int token, int k) {
    const size_t at = static_cast<size_t>(k / 256) * band_group_words(what.form) * 2 + band_half(what.form, k % 256, token);
    return static_cast<double>(scales[token]) * std::ldexp(static_cast<double>(__half2float(halves[at])), -band_exponent(k % 256));
  };
  const double worst = difference(linears, rates, weights, what.tokens, what.adds, what.adds, value, got);
  for (void* memory : {static_cast<void*>(output), static_cast<void*>(input), static_cast<void*>(scratch.partial)}) CHECK(cudaFree(memory));
  return worst;
}

void run_band_checks() {
  const Linears small[] = {
      {{256, 96, 64}, 768, Prologue::kNorm},      {{640}, 1024}, {{224, 512}, 4352, Prologue::kGated}, {{400}, 9216}, {{4992, 48}, 512},
      {{4096, 1024, 1008}, 2048, Prologue::kNorm}};
  constexpr double kMost = 2e-3;  // decoded weights are halves
  for (const int form : {32, 64, 96, 128})
    for (const int tokens : {1, form / 2 + 1, form - 3, form}) {
      double worst = 0;
      for (size_t i = 0; i < std::size(small); ++i)
        worst = std::max(worst, check_bands(small[i], {tokens, form, 0, (i + tokens) % 3 == 0}));
      std::printf("{\"check\": \"bands\", \"form\": %d, \"tokens\": %d, \"error\": %.2e, \"good\": %s}\n", form, tokens, worst,
                  worst < kMost ? "true" : "false");
      std::fflush(stdout);
    }
  for (const int form : {32, 64, 96, 128})
    for (int rate = 1; rate <= plane_bands_needs(form).most_rate; ++rate) {
      const double worst = check_bands(small[5], {form, form, rate, rate % 2 == 0});
      std::printf("{\"check\": \"bands\", \"form\": %d, \"bits\": %d, \"error\": %.2e, \"good\": %s}\n", form, rate, worst,
                  worst < kMost ? "true" : "false");
    }
}

// Planes decoded to halves, then cuBLAS.
double decoded_layer_us(const Layer& layer, const PackedLayer& packed, int tokens) {
  cublasHandle_t handle;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return std::printf("no cublas\n"), 0;
  void* workspace = device<char>(64 << 20);
  auto* rotated = device<__half>(kMostInput);
  auto* decoded = device<__half>(int64_t{28672} * 8192);
  const double us = median_us(
      [&](cudaStream_t stream) {
        cublasSetStream(handle, stream);
        cublasSetWorkspace(handle, workspace, 64 << 20);
        for (const auto& copy : packed.copies)
          for (size_t i = 0; i < layer.linears.size(); ++i) {
            const Linears& linears = layer.linears[i];
            QuantizeArgs rotate;
            rotate.input = {linears.prologue, packed.input, packed.input + kMostInput, linears.columns, 1e-5f};
            rotate.sign = copy[i].sign, rotate.tokens = tokens, rotate.columns = linears.columns, rotate.hadamard = 256;
            rotate_input(rotate, rotated, nullptr, stream);
            for (int m = 0; m < copy[i].args.jobs; ++m) {
              const float one = 1, zero = 0;
              DecodeArgs decode;
              decode.job = copy[i].args.job[m], decode.tiles = copy[i].tiles[m], decode.half_output = decoded;
              decode.groups = (linears.columns + 255) / 256, decode.columns = linears.columns, decode.hadamard = 256;
              const int band = std::min(linears.rows[m], (64 << 20) / linears.columns / 128 * 128);
              for (int first = 0; first < linears.rows[m]; first += band) {
                decode.first = first, decode.count = std::min(band, linears.rows[m] - first);
                tq::cuda::decode(decode, stream);
                cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, decode.count, tokens, linears.columns, &one, decoded, CUDA_R_16F,
                             linears.columns, rotated, CUDA_R_16F, linears.columns, &zero, decode.job.output + first, CUDA_R_32F,
                             linears.rows[m], CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
              }
            }
          }
      },
      static_cast<int>(packed.copies.size()));
  for (void* memory : {workspace, static_cast<void*>(rotated), static_cast<void*>(decoded)}) CHECK(cudaFree(memory));
  cublasDestroy(handle);
  return us;
}

// Launches of up to 8 tokens (4 of 16 bits), one after the other.
double passes_us(const Layer& layer, const PackedLayer& packed, int rate, int tokens, int most) {
  return median_us(
      [&](cudaStream_t stream) {
        for (const auto& copy : packed.copies)
          for (size_t i = 0; i < layer.linears.size(); ++i)
            for (int first = 0; first < tokens; first += most) {
              const int count = std::min(most, tokens - first);
              const PlanePlan shape = plan(layer.linears[i], uniform(layer.linears[i], rate), count, {"", true, 0});
              enqueue(layer.linears[i], copy[i], shape, count, packed.input, packed.scratch, stream, true);
            }
      },
      static_cast<int>(packed.copies.size()));
}

// All linears of all copies, or one of them. enqueue: (linears, weights, stream).
template <typename Enqueue>
double linears_us(const Layer& layer, const PackedLayer& packed, int only, const Enqueue& enqueue) {
  return median_us(
      [&](cudaStream_t stream) {
        for (const auto& copy : packed.copies)
          for (size_t i = 0; i < layer.linears.size(); ++i)
            if (only < 0 || only == static_cast<int>(i)) enqueue(layer.linears[i], copy[i], stream);
      },
      static_cast<int>(packed.copies.size()));
}

double many_us(const Layer& layer, const PackedLayer& packed, int tokens, bool has_pairs) {
  return linears_us(layer, packed, -1, [&](const Linears& linears, const Weights& weights, cudaStream_t stream) {
    enqueue_many(linears, weights, many_plan(linears, weights, tokens, has_pairs, false), tokens, packed.input, packed.scratch, stream);
  });
}

double bands_us(const Layer& layer, const PackedLayer& packed, int tokens, int only = -1) {
  return linears_us(layer, packed, only, [&](const Linears& linears, const Weights& weights, cudaStream_t stream) {
    for (int first = 0; first < tokens; first += kBandTokens) {
      const int count = std::min(kBandTokens, tokens - first);
      enqueue_bands(linears, weights, band_form(count), count, packed.input, packed.scratch, stream);
    }
  });
}

// Everything that could multiply a layer with so many tokens.
void bench_many(const std::vector<int>& rates) {
  const int counts[] = {8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512};
  std::printf("{\"read_gigabytes_per_second\": %.0f}\n", read_gigabytes_per_second());
  for (const Layer& layer : kLayers) {
    std::vector<double> half;
    for (const int tokens : counts) half.push_back(half_layer_us(layer, tokens));
    for (const int rate : rates) {
      PackedLayer packed = make_layer(layer, rate);
      for (size_t t = 0; t < std::size(counts); ++t) {
        const int tokens = counts[t];
        g_parts = 7;
        const double passes = tokens > 16 ? 0 : passes_us(layer, packed, rate, tokens, 8);
        const double many = tokens > kManyTokens ? 0 : many_us(layer, packed, tokens, false);
        const double pairs = tokens > kManyTokens ? 0 : many_us(layer, packed, tokens, true);
        const double bands = tokens < 24 ? 0 : bands_us(layer, packed, tokens);
        const double decoded = tokens < 32 ? 0 : decoded_layer_us(layer, packed, tokens);
        g_parts = 2;
        const double product = tokens < 24 ? 0 : bands_us(layer, packed, tokens);
        g_parts = 7;
        std::printf(
            "{\"layer\": \"%s\", \"bits\": %d, \"tokens\": %d, \"passes_us\": %.1f, \"many_us\": %.1f, \"pairs_us\": %.1f, \"bands_us\": "
            "%.1f, \"bands_product_us\": %.1f, \"decoded_us\": %.1f, \"half_us\": %.1f}\n",
            layer.name, rate, tokens, passes, many, pairs, bands, product, decoded, half[t]);
        if (tokens == 64)
          for (int i = 0; i < 4; ++i)
            std::printf("{\"layer\": \"%s\", \"bits\": %d, \"tokens\": %d, \"linear\": %d, \"bands_us\": %.1f}\n", layer.name, rate, tokens,
                        i, bands_us(layer, packed, tokens, i));
        std::fflush(stdout);
      }
      free_layer(packed);
    }
  }
}

void bench(const std::vector<int>& rates, const std::vector<int>& token_counts) {
  std::printf("{\"read_gigabytes_per_second\": %.0f}\n", read_gigabytes_per_second());
  for (const Layer& layer : kLayers) {
    std::vector<double> half;
    for (const int tokens : token_counts) half.push_back(half_layer_us(layer, tokens));
    for (const int rate : rates) {
      PackedLayer packed = make_layer(layer, rate);
      for (size_t t = 0; t < token_counts.size(); ++t)
        for (const Variant& way : variants())
          for (const int mode : {15, 2 + 8}) {
            if (way.rounds && mode == 10) continue;
            if (token_counts[t] > 1 && way.rounds) continue;
            const bool early = mode & 8;
            g_parts = mode & 7;
            const double us = packed_layer_us(layer, packed, rate, token_counts[t], way, early);
            std::printf(
                "{\"layer\": \"%s\", \"bits\": %d, \"tokens\": %d, \"way\": \"%s\", \"mode\": %d, \"us\": %.1f, \"half_us\": %.1f, "
                "\"ratio\": %.2f, \"gbs\": %.0f}\n",
                layer.name, rate, token_counts[t], way.name.c_str(), mode, us, half[t], half[t] / us,
                static_cast<double>(packed.bytes) / us / 1e3);
            std::fflush(stdout);
          }
      free_layer(packed);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);  // so that a run which is cut short has said what it knew
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  g_sms = properties.multiProcessorCount;
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d}\n", properties.name, g_sms);
  for (int i = 1; i < argc; ++i) {
    const std::string what = argv[i];
    if (what == "check") run_checks();
    if (what == "bench") bench({3, 4}, {1, 4, 8});
    if (what == "check-many") run_many_checks();
    if (what == "check-bands") run_band_checks();
    if (what == "bench-many") bench_many({4, 3});
    if (what == "bench-many-4") bench_many({4});
    if (what == "bench2") bench({2}, {1, 4});
    if (what == "rows") {
      rows_check();
      for (const int bits : {3, 4}) rows_bench(kLayers[0], bits, 32);
      rows_bench(kLayers[1], 3, 40);
      head_bench();
    }
  }
  return 0;
}
