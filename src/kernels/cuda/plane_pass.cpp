#include "kernels/cuda/plane_pass.h"

#include "kernels/cuda/expect.h"

namespace tq::cuda {
namespace {

constexpr int kMostRanges = 1 << 17;  // of the matrices of a launch: 4 million rows

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
  return {};
}

bool PlanePass::run_rows(const QuantizeArgs& input, std::span<const LinearJob> jobs, bool adds, cudaStream_t stream) const {
  PlaneRowsArgs args;
  RowShape shapes[kMaxJobs];
  args.input = input, args.adds = adds, args.launches_late = adds;
  for (const LinearJob& job : jobs) {
    const Weights& weights = *static_cast<const CudaMatrix&>(*job.matrix).weights;
    PlaneJob& planes = args.job[args.jobs];
    planes = weights.planes, planes.bias = job.bias, planes.output = job.output;
    args.groups = weights.groups;
    shapes[args.jobs++] = weights.row_shape();
  }
  return plan_rows(shapes, args.jobs, args.groups, multiprocessors_, args.owners) && plane_rows(args, stream);
}

void PlanePass::run(const InputArgs& input, std::span<const LinearJob> jobs, int tokens, bool adds, uint64_t& generation,
                    cudaStream_t stream) {
  PlaneArgs args;
  int tiles = 0, ranges = 0;
  for (const LinearJob& job : jobs) {
    PlaneJob& planes = args.job[args.jobs++];
    planes = static_cast<const CudaMatrix&>(*job.matrix).weights->planes;
    planes.bias = job.bias, planes.output = job.output;
    planes.first_tile = tiles, planes.first_range = ranges;
    tiles += planes.tile_count(), ranges += planes.range_count();
  }
  TQ_CHECK(ranges <= kMostRanges);
  const Weights& first = *static_cast<const CudaMatrix&>(*jobs[0].matrix).weights;
  if (tokens == 1 && has_clusters_ && run_rows(quantize_args(first, input, 1), jobs, adds, stream)) return;
  const PlanePlan plan = plan_planes(first.columns, tiles, tokens, multiprocessors_);
  args.tokens = tokens, args.split = plan.split, args.adds = adds;
  args.partial = partial_.get<float>(plan.partial_floats(), generation);
  args.totals = totals_.get<float>(2 * plan.split.slices, generation);
  args.arrived = arrived_.as<uint32_t>();
  QuantizeArgs rounding = quantize_args(first, input, tokens);
  rounding.form = plan.form;
  if (plan.rounds) {
    args.input = rounding;
  } else {
    const int64_t values = static_cast<int64_t>(first.groups) * plan.form.tokens;
    args.activations.words = words_.get<uint32_t>(static_cast<int64_t>(first.groups) * plan.form.products() * 64, generation);
    args.activations.scales = scales_.get<float>(2 * values, generation);
    args.activations.sums = args.activations.scales + values;
    rounding.output = args.activations;
    quantize(rounding, stream);
  }
  plane_linear(args, plan, stream);
}

}  // namespace tq::cuda
