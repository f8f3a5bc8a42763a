#include "kernels/cuda/attending.h"

#include <algorithm>
#include <bit>

#include "kernels/cuda/expect.h"

namespace tq::cuda {
namespace {

constexpr int64_t kLeastPromptRows = 16;  // of a stretch whose attention is worth the tensor cores
constexpr int64_t kAttendShare = 64;      // positions that are worth a thread block
constexpr int64_t kMostSplits = 32;
constexpr int64_t kAttendResident = 3;            // thread blocks of attend_halves.cu that a multiprocessor has at a time
constexpr int64_t kUsualPositions = 512;          // of a sequence
constexpr int64_t kSplitPositions = 128;          // that a thread block would have read while it begins and merges
constexpr int64_t kInvariantRows = 16;            // of a launch whose splits do not depend on its rows
constexpr int64_t kMostHeads = int64_t{1} << 16;  // of all tokens, where positions are split

int64_t partial_floats(const AttendArgs& args, int64_t tokens, int64_t splits) {
  return splits > 1 ? tokens * args.heads * splits * (args.kv.head_dim + 2) : 0;
}

bool is_prompt(const AttendArgs& args, const Stretch& stretch) {
  return args.precision != Precision::kInvariant && stretch.tokens >= kLeastPromptRows;
}

}  // namespace

KvArgs kv_args(const KvView& kv) {
  return {.type = static_cast<int>(kv.type),
          .key = reinterpret_cast<char*>(kv.key),
          .value = reinterpret_cast<char*>(kv.value),
          .kv_heads = static_cast<int>(kv.kv_heads),
          .head_dim = static_cast<int>(kv.head_dim),
          .page_shift = std::countr_zero(static_cast<uint64_t>(kv.page_tokens)),
          .row_bytes = static_cast<int>(kv_row_bytes(kv.type, kv.head_dim)),
          .scale_at = static_cast<int>((kv.head_dim + 3) / 4 * 4)};
}

Status Attending::open(cudaStream_t stream) {
  TQ_ASSIGN(arrived_, DeviceMemory::allocate(kMostHeads * sizeof(uint32_t)));
  expect(cudaMemsetAsync(arrived_.as<void>(), 0, arrived_.bytes(), stream), "zeroing");
  return {};
}

Status Attending::reserve(const AttendArgs& args, int64_t rows) {
  int64_t most = 0;
  const int64_t tokens = args.precision == Precision::kInvariant ? std::min(rows, kInvariantRows) : rows;
  for (int64_t i = 1; i <= tokens; ++i) most = std::max(most, partial_floats(args, i, splits_of(args, i)));
  return partial_.reserve(most * static_cast<int64_t>(sizeof(float)), generation_);
}

void Attending::run(const AttendArgs& args, cudaStream_t stream) {
  AttendArgs run = args;
  for (size_t first = 0, last = 0; first < args.stretches.size(); first = last) {
    const bool is_long = is_prompt(args, args.stretches[first]);
    while (last < args.stretches.size() && is_prompt(args, args.stretches[last]) == is_long) ++last;
    run.stretches = args.stretches.subspan(first, last - first);
    if (!is_long || !run_prompts(run, stream)) run_rows(run, stream);
    const int64_t tokens = tokens_of(run.stretches);
    run.query += tokens * args.stride, run.output += tokens * args.heads * args.kv.head_dim;
  }
}

bool Attending::is_single(const AttendArgs& args) {
  return args.precision != Precision::kInvariant &&
         std::all_of(args.stretches.begin(), args.stretches.end(), [](const Stretch& each) { return each.tokens == 1; });
}

void Attending::run_single(const AttendArgs& args, const RotateArgs& rotate, cudaStream_t stream) {
  AttendArgsDevice all = device_args(args, tokens_of(args.stretches), stream);
  all.rotates = true, all.is_settled = places_.in_pass();
  all.rotate = rotate;
  attend(all, stream);
}

// Thread blocks among which a token's positions are split. The same at every length, so that a recorded pass holds for all of them; with
// kInvariant the same for any number of tokens; and as for all parts' heads together, so that sums are the same.
int64_t Attending::splits_of(const AttendArgs& args, int64_t tokens) const {
  if (args.precision == Precision::kInvariant) tokens = 1;
  const int64_t group = args.heads / args.kv.kv_heads, chunks = (group + kAttendHeads - 1) / kAttendHeads;
  const int64_t blocks = shape_.parts * args.kv.kv_heads * tokens * chunks, places = kAttendResident * shape_.multiprocessors;
  const int64_t longest = std::min<int64_t>((args.kv.capacity + kAttendShare - 1) / kAttendShare, kMostSplits);
  // One token's have multiprocessors for themselves, so that the thread blocks of the next product find places at once.
  if (tokens == 1) return std::clamp<int64_t>(shape_.multiprocessors / blocks, 1, longest);
  // Of several tokens: what the rounds of thread blocks take, in positions.
  const auto cost = [&](int64_t splits) { return (blocks * splits + places - 1) / places * (kUsualPositions / splits + kSplitPositions); };
  int64_t best = 1;
  for (int64_t splits = 2; splits <= longest; splits *= 2)
    if (cost(splits) < cost(best)) best = splits;
  return best;
}

// tokens: of a launch
AttendArgsDevice Attending::device_args(const AttendArgs& args, int64_t tokens, cudaStream_t stream) {
  AttendArgsDevice attend;
  attend.kv = kv_args(args.kv);
  attend.query = args.query, attend.output = args.output, attend.stride = args.stride;
  attend.tokens = static_cast<int>(tokens), attend.heads = static_cast<int>(args.heads), attend.window = static_cast<int>(args.window);
  attend.scale = args.scale, attend.softcap = args.softcap, attend.place = places_.of(args.stretches, stream);
  attend.splits = static_cast<int>(splits_of(args, tokens));
  if (attend.splits > 1) {
    if (shape_.has_clusters) attend.cluster = std::min(kMostCluster, static_cast<int>(std::bit_ceil(static_cast<unsigned>(attend.splits))));
    attend.partial = partial_.get<float>(partial_floats(args, tokens, attend.splits), generation_);
    TQ_CHECK(tokens * args.heads <= kMostHeads);
    attend.arrived = arrived_.as<uint32_t>();
  }
  return attend;
}

void Attending::run_rows(const AttendArgs& args, cudaStream_t stream) {
  const int64_t tokens = tokens_of(args.stretches), most = args.precision == Precision::kInvariant ? kInvariantRows : tokens;
  AttendArgsDevice attend = device_args(args, std::min(tokens, most), stream);
  for (int64_t first = 0; first < tokens; first += most) {
    attend.tokens = static_cast<int>(std::min(most, tokens - first));
    cuda::attend(attend, stream);
    attend.query += most * args.stride, attend.output += most * args.heads * args.kv.head_dim, attend.place += most;
  }
}

// False where the tensor cores' kernel cannot.
bool Attending::run_prompts(const AttendArgs& args, cudaStream_t stream) {
  AttendPromptArgs prompts{.query = args.query,
                           .output = args.output,
                           .stride = args.stride,
                           .heads = static_cast<int>(args.heads),
                           .window = static_cast<int>(args.window),
                           .scale = args.scale,
                           .softcap = args.softcap,
                           .kv = kv_args(args.kv)};
  if (!cuda::attends_prompt(prompts)) return false;
  prompts.place = places_.of(args.stretches, stream);
  int32_t row = 0;
  for (const Stretch& stretch : args.stretches) {
    prompts.stretch[prompts.stretches++] = {.first_row = row, .tokens = static_cast<int32_t>(stretch.tokens)};
    row += static_cast<int32_t>(stretch.tokens);
    if (prompts.stretches < kMaxPrompts && &stretch != &args.stretches.back()) continue;
    cuda::attend_prompt(prompts, has_float_activations(args.precision), shape_.multiprocessors, stream);
    prompts.stretches = 0;
  }
  return true;
}

}  // namespace tq::cuda
