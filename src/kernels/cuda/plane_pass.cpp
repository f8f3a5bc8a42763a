#include "kernels/cuda/plane_pass.h"

#include <algorithm>

#include "kernels/cuda/band_decode.h"
#include "kernels/cuda/expect.h"

namespace tq::cuda {
namespace {

constexpr int kMostRanges = 1 << 17;      // of the matrices of a launch: 4 million rows
constexpr int kReservedShared = 2 << 10;  // by the card, of two thread blocks
constexpr int kSmallWidth = 4096;         // of hidden states

const Weights& first_weights(std::span<const LinearJob> jobs) { return *static_cast<const CudaMatrix&>(*jobs[0].matrix).weights; }

// Places of the matrices in a launch. tiles, ranges: of all of them.
template <typename Args>
Args plane_args(std::span<const LinearJob> jobs, int& tiles, int& ranges) {
  Args args;
  tiles = ranges = 0;
  for (const LinearJob& job : jobs) {
    PlaneJob& planes = args.job[args.jobs++];
    planes = static_cast<const CudaMatrix&>(*job.matrix).weights->planes;
    planes.bias = job.bias, planes.output = job.output;
    planes.first_tile = tiles, planes.first_range = ranges;
    tiles += planes.tile_count(), ranges += planes.range_count();
  }
  TQ_CHECK(ranges <= kMostRanges);
  return args;
}
PlaneArgs plane_args(std::span<const LinearJob> jobs) {
  int tiles = 0, ranges = 0;
  return plane_args<PlaneArgs>(jobs, tiles, ranges);
}

bool wants_pairs(std::span<const LinearJob> jobs) {
  return std::any_of(jobs.begin(), jobs.end(),
                     [](const LinearJob& job) { return static_cast<const CudaMatrix&>(*job.matrix).weights->wants_pairs; });
}

// Tokens of one launch as bits.
int most_few(std::span<const LinearJob> jobs) { return wants_pairs(jobs) ? kMaxTokens / 2 : kMaxTokens; }

}  // namespace

QuantizeArgs quantize_args(const Weights& weights, const InputArgs& input, int tokens) {
  QuantizeArgs quantize;
  quantize.input = input, quantize.sign = weights.sign.as<uint8_t>();
  quantize.tokens = tokens, quantize.columns = weights.columns, quantize.hadamard = weights.hadamard;
  return quantize;
}

Status PlanePass::open() {
  TQ_ASSIGN(arrived_, DeviceMemory::allocate(kMostRanges * sizeof(uint32_t)));
  expect(cudaMemset(arrived_.as<void>(), 0, arrived_.bytes()), "zeroing");
  expect(cudaDeviceSynchronize(), "zeroing");  // the backend's stream does not wait for it
  int device = 0;
  expect(cudaGetDevice(&device), "card");
  expect(cudaDeviceGetAttribute(&shared_bytes_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
  expect(cudaDeviceGetAttribute(&multiprocessor_bytes_, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "shared memory");
  return {};
}

std::optional<ManyPlan> PlanePass::plan_many(std::span<const LinearJob> jobs, int tokens, bool is_invariant) const {
  const bool wants = is_invariant || wants_pairs(jobs), has_pairs = wants || tokens <= kFineTokens;
  if (tokens > kManyTokens) return std::nullopt;
  if (!is_invariant && tokens <= most_few(jobs)) return std::nullopt;
  int tiles = 0, ranges = 0, whole_rows = 0;
  for (const LinearJob& job : jobs) {
    const Weights& weights = *static_cast<const CudaMatrix&>(*job.matrix).weights;
    if (weights.planes.plane_rows < kManyLeastPlanes || !many_windows(weights.planes.windows)) return std::nullopt;
    tiles += weights.planes.tile_count(), ranges += weights.planes.range_count();
    whole_rows += std::max(weights.whole_rows, weights.rows);
  }
  const ManyPlan plan = cuda::plan_many(first_weights(jobs).columns, whole_rows, tiles, ranges, static_cast<int>(jobs.size()), tokens,
                                        has_pairs, is_invariant, multiprocessors_);
  const bool fits = plan.split.most_groups() * many_group_words(plan.form) <= kManyWords && plane_many_shared(plan) <= shared_bytes_;
  if (!fits) return std::nullopt;
  return plan;
}

int PlanePass::form_of_bands(std::span<const LinearJob> jobs, int tokens, bool is_invariant) const {
  if (is_invariant || tokens <= most_few(jobs)) return 0;
  const int form = band_form(tokens);
  const BandNeeds needs = plane_bands_needs(form);
  if (needs.shared_bytes > shared_bytes_ || tokens > kBandTokens || first_weights(jobs).groups > kMostRoundGroups * kRoundWarps) return 0;
  int units = 0, least_rate = kRates, most_rate = 0;
  for (const LinearJob& job : jobs) {
    const Weights& weights = *static_cast<const CudaMatrix&>(*job.matrix).weights;
    if (!has_bands(weights.planes)) return 0;
    units += weights.planes.unit_count();
    least_rate = std::min(least_rate, weights.least_rate), most_rate = std::max(most_rate, weights.most_rate);
  }
  // So that no thread block has more sets than it can: whatever its bands are, a whole set costs on the mean less than five times what
  // another does.
  const int uneven = least_rate == most_rate ? 1 : 5, sets = (units + kBandWorkers - 1) / kBandWorkers;
  return most_rate <= needs.most_rate && uneven * sets / multiprocessors_ + 3 <= kMostSets ? form : 0;
}

int PlanePass::most_tokens(std::span<const LinearJob> jobs, bool is_invariant) const {
  for (const int bands : {kBandTokens, 96, 64})
    if (form_of_bands(jobs, bands, is_invariant) != 0) return bands;
  for (int many = kManyTokens; many > kMaxTokens; many /= 2)
    if (plan_many(jobs, many, is_invariant) || form_of_bands(jobs, many, is_invariant) != 0) return many;
  return is_invariant ? kInvariantTokens : most_few(jobs);
}

PlaneSteps PlanePass::steps(std::span<const LinearJob> jobs) const {
  int64_t rows = 0;
  for (const LinearJob& job : jobs) {
    const Weights& weights = *static_cast<const CudaMatrix&>(*job.matrix).weights;
    rows += std::max(weights.whole_rows, weights.rows);
  }
  const int64_t decoded = most_tokens(jobs, false) > kManyTokens ? band_tokens(rows) : kBandlessTokens;
  return {.few = most_few(jobs),
          .bytes = plan_many(jobs, kManyTokens, false) ? kManyTokens : 0,
          .bands = form_of_bands(jobs, kManyTokens, false) != 0 ? decoded : 0,
          .decoded = decoded};
}

int PlanePass::least_shared() {
  is_roomy_ = !is_roomy_;
  return is_roomy_ ? std::min(multiprocessor_bytes_ / 2, shared_bytes_) : 0;
}

bool PlanePass::run_rows(const QuantizeArgs& input, std::span<const LinearJob> jobs, bool adds, cudaStream_t stream) {
  PlaneRowsArgs args;
  RowShape shapes[kMaxJobs];
  args.input = input, args.adds = adds;
  // What won in lab/cuda-planes: in small models, the next product's first weights come while this one's input is waited for.
  const int rows = first_weights(jobs).rows, whole_rows = std::max(first_weights(jobs).whole_rows, rows);
  args.launches_late = !adds || whole_rows > kSmallWidth;
  args.most_shared = std::min(shared_bytes_, multiprocessor_bytes_ - multiprocessor_bytes_ / 2 - kReservedShared);
  for (const LinearJob& job : jobs) {
    const Weights& weights = *static_cast<const CudaMatrix&>(*job.matrix).weights;
    PlaneJob& planes = args.job[args.jobs];
    planes = weights.planes, planes.bias = job.bias, planes.output = job.output;
    args.groups = weights.groups;
    shapes[args.jobs++] = weights.row_shape();
  }
  if (!plan_rows(shapes, args.jobs, args.groups, multiprocessors_, args.owners)) return false;
  const bool was_roomy = is_roomy_;
  args.least_shared = least_shared();
  if (plane_rows(args, stream)) return true;
  is_roomy_ = was_roomy;
  return false;
}

PlanePlan PlanePass::plan(const PlaneArgs& args, int columns, int tokens, bool is_invariant) const {
  const PlaneJob& last = args.job[args.jobs - 1];
  const int tiles = last.first_tile + last.tile_count();
  for (int most_groups = kMaxRoundGroups;; most_groups /= 2) {
    const PlanePlan plan = plan_planes(columns, tiles, is_invariant ? kInvariantTokens : tokens, multiprocessors_, 0, most_groups);
    if (most_groups == kWarpGroups || plane_linear_shared(plan) <= shared_bytes_) return plan;
  }
}

Status PlanePass::reserve(const PlanePlan& plan, uint64_t& generation) {
  constexpr int64_t kFloat = sizeof(float);
  const int64_t values = static_cast<int64_t>(plan.split.groups) * plan.form.tokens;
  TQ_TRY(partial_.reserve(plan.partial_floats() * kFloat, generation));
  TQ_TRY(totals_.reserve(2 * plan.split.slices * kFloat, generation));
  if (plan.rounds) return {};
  TQ_TRY(words_.reserve(static_cast<int64_t>(plan.split.groups) * plan.form.products() * 64 * kFloat, generation));
  return scales_.reserve(2 * values * kFloat, generation);
}

Status PlanePass::reserve(const ManyPlan& plan, uint64_t& generation) {
  constexpr int64_t kFloat = sizeof(float);
  TQ_TRY(partial_.reserve(plan.partial_floats() * kFloat, generation));
  TQ_TRY(words_.reserve(plan.words() * kFloat, generation));
  return scales_.reserve(int64_t{2} * plan.split.groups * plan.form.tokens * kFloat, generation);
}

Status PlanePass::reserve_bands(std::span<const LinearJob> jobs, int form, uint64_t& generation) {
  constexpr int64_t kFloat = sizeof(float);
  TQ_TRY(partial_.reserve(int64_t{multiprocessors_} * kBandSums * form * kFloat, generation));
  TQ_TRY(words_.reserve(int64_t{first_weights(jobs).groups} * band_group_words(form) * kFloat, generation));
  return scales_.reserve(2 * form * kFloat, generation);
}

Status PlanePass::reserve(std::span<const LinearJob> jobs, int tokens, bool is_invariant, uint64_t& generation) {
  if (const auto many = plan_many(jobs, tokens, is_invariant)) return reserve(*many, generation);
  if (const int form = form_of_bands(jobs, tokens, is_invariant)) return reserve_bands(jobs, form, generation);
  return reserve(plan(plane_args(jobs), first_weights(jobs).columns, tokens, is_invariant), generation);
}

void PlanePass::run(const InputArgs& input, std::span<const LinearJob> jobs, int tokens, bool is_invariant, bool adds, uint64_t& generation,
                    cudaStream_t stream) {
  const Weights& first = first_weights(jobs);
  QuantizeArgs rounding = quantize_args(first, input, tokens);
  if (tokens == 1 && !is_invariant && has_clusters_ && run_rows(rounding, jobs, adds, stream)) return;
  if (const auto many = plan_many(jobs, tokens, is_invariant)) return run_many(*many, rounding, jobs, adds, generation, stream);
  if (const int form = form_of_bands(jobs, tokens, is_invariant)) return run_bands(form, rounding, jobs, adds, generation, stream);
  PlaneArgs args = plane_args(jobs);
  const PlanePlan plan = this->plan(args, first.columns, tokens, is_invariant);
  TQ_CHECK(tokens <= plan.form.tokens && reserve(plan, generation));
  args.tokens = tokens, args.split = plan.split, args.adds = adds;
  args.partial = partial_.as<float>(), args.totals = totals_.as<float>();
  args.arrived = arrived_.as<uint32_t>();
  args.most_shared = shared_bytes_;
  if (plan.rounds) args.least_shared = least_shared();
  else interrupt();
  rounding.form = plan.form;
  if (plan.rounds) {
    args.input = rounding;
  } else {
    args.activations.words = words_.as<uint32_t>();
    args.activations.scales = scales_.as<float>();
    args.activations.sums = args.activations.scales + static_cast<int64_t>(plan.split.groups) * plan.form.tokens;
    rounding.output = args.activations;
    quantize(rounding, stream);
  }
  plane_linear(args, plan, stream);
}

void PlanePass::run_many(const ManyPlan& plan, const QuantizeArgs& input, std::span<const LinearJob> jobs, bool adds, uint64_t& generation,
                         cudaStream_t stream) {
  TQ_CHECK(reserve(plan, generation));
  interrupt();
  int tiles = 0, ranges = 0;
  auto args = plane_args<ManyArgs>(jobs, tiles, ranges);
  args.tokens = input.tokens, args.form = plan.form, args.split = plan.split, args.adds = adds;
  args.partial = partial_.as<float>();
  args.activations.words = words_.as<uint32_t>();
  args.activations.scales = scales_.as<float>();
  args.activations.sums = args.activations.scales + static_cast<int64_t>(plan.split.groups) * plan.form.tokens;
  QuantizeArgs rounding = input;
  rounding.form = plan.form, rounding.to = Rounded::kBytes, rounding.output = args.activations;
  quantize(rounding, stream);
  plane_many(args, plan, stream);
}

void PlanePass::run_bands(int form, const QuantizeArgs& input, std::span<const LinearJob> jobs, bool adds, uint64_t& generation,
                          cudaStream_t stream) {
  TQ_CHECK(reserve_bands(jobs, form, generation));
  interrupt();
  BandArgs args;
  RowShape shapes[kMaxJobs];
  for (const LinearJob& job : jobs) {
    const Weights& weights = *static_cast<const CudaMatrix&>(*job.matrix).weights;
    shapes[args.jobs] = weights.row_shape();
    PlaneJob& planes = args.job[args.jobs++];
    planes = weights.planes, planes.bias = job.bias, planes.output = job.output;
  }
  TQ_CHECK(split_bands(shapes, args.jobs, first_weights(jobs).columns, form, multiprocessors_, args.split));
  args.tokens = input.tokens, args.form = form, args.adds = adds;
  args.partial = partial_.as<float>(), args.arrived = arrived_.as<uint32_t>();
  args.activations.words = words_.as<uint32_t>();
  args.activations.scales = scales_.as<float>(), args.activations.sums = args.activations.scales + form;
  QuantizeArgs rounding = input;
  rounding.form.tokens = form, rounding.to = Rounded::kHalves, rounding.output = args.activations;
  quantize(rounding, stream);
  plane_bands(args, stream);
}

}  // namespace tq::cuda
