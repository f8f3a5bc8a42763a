#include "graph/footprint.h"

#include <algorithm>
#include <map>

#include "codec/grid/grid.h"
#include "kernels/plane_sizes.h"

namespace tq {
namespace {

constexpr uint64_t kPage = uint64_t{2} << 20;  // that a card gives large regions in; small ones share pages
constexpr uint64_t kShare = 512;
constexpr uint64_t kFixed = 770'000'000;  // context, cuBLAS and what is kept free, on an H200 with CUDA 13

using cuda::kGroupColumns, cuda::kTileRows;

constexpr int64_t kPassTokens = cuda::kMaxTokens;
constexpr int64_t kMultiprocessors = 132;                                     // of an H200
constexpr int64_t kManyGroups = cuda::kManyWords / (8 * kGroupColumns / 32);  // of a slice, over all its tokens of 8 bits

uint64_t on_card(int64_t bytes) {
  const auto count = static_cast<uint64_t>(bytes);
  const uint64_t unit = count < kPage / 2 ? kShare : kPage;
  return (count + unit - 1) / unit * unit;
}

int64_t groups_of(int64_t columns) { return (columns + kGroupColumns - 1) / kGroupColumns; }

uint64_t weight_bytes(const CardMatrix& matrix) {
  if (matrix.plane_rows == 0) return on_card(matrix.rows * matrix.columns * matrix.element_bytes);
  const int64_t tiles = (matrix.plane_rows + grid::kLineRows - 1) / grid::kLineRows * grid::kLineRows / kTileRows;
  const int64_t ranges = (matrix.rows + grid::kRateRows - 1) / grid::kRateRows;
  return on_card(tiles * groups_of(matrix.columns) * cuda::kTileBytes) + on_card(matrix.rows * 2) + on_card(ranges) + on_card(ranges * 4) +
         on_card(tiles * 8) + on_card(matrix.columns / 8) + on_card((grid::kMaxRate + 1) * grid::kMaxWindow * 4) +
         on_card(matrix.rows / cuda::kBandRows * 4);  // the last only where rates are mixed
}

// Sums of as many slices of columns as many tokens' products have, about, and their input as bytes.
int64_t many_bytes(int64_t rows, int64_t columns, int64_t tokens) {
  int64_t form = 16;
  while (form < std::min<int64_t>(tokens, cuda::kManyTokens)) form *= 2;
  const int64_t groups = groups_of(columns), slices = (groups * form + kManyGroups - 1) / kManyGroups;
  return (slices > 1 ? slices * form * rows * 4 : 0) + 2 * form * groups * kGroupColumns;
}

// Sums that thread blocks have in common, and the input as halves.
int64_t band_bytes(int64_t columns, int64_t tokens) {
  const int64_t form = std::max(64, cuda::band_form(tokens));
  return form * (kMultiprocessors * cuda::kBandSums * 4 + groups_of(columns) * kGroupColumns * 2);
}

// Weights that are decoded together, at most. turn: those before this matrix's that are decoded with its first; of its last ones then.
int64_t most_decoded(const CardMatrix& matrix, int64_t& turn) {
  const int64_t strip = cuda::strip_rows(matrix.rows, matrix.columns);
  int64_t most = 0;
  for (int64_t first = 0; first < matrix.rows; first += strip) {
    cuda::begins_turn(turn, std::min(strip, matrix.rows - first) * matrix.columns);
    most = std::max(most, turn);
  }
  return most;
}

// Between the kernels of a product: the input as halves (as floats, where the weights are) and decoded weights of a prompt; the sums of
// plane rows of a few tokens.
uint64_t product_bytes(const ModelSpec& spec, const std::vector<CardMatrix>& matrices, const Network::Size& size) {
  int64_t input = 0, decoded = 0, partial = 0;
  std::map<std::string, int64_t> tiles, rows, all_rows, turn;  // of a tap: so far, and in all; decoded together with what comes next
  std::map<std::string, bool> has_bands;                       // all matrices of a tap
  for (const CardMatrix& each : matrices) {
    if (each.plane_rows == 0) continue;
    all_rows[each.tap] += each.rows;
    has_bands.try_emplace(each.tap, true).first->second &= each.rows % cuda::kBandRows == 0;
  }
  for (const CardMatrix& each : matrices) {
    if (each.tap.empty()) continue;  // an embedding
    const bool is_head = each.tap == spec.head.tap;
    const int64_t tokens = is_head ? size.head_rows : size.rows;
    if (each.plane_rows == 0) {
      input = std::max(input, tokens * each.columns * each.element_bytes);
      continue;
    }
    const int64_t few = has_bands[each.tap] ? cuda::band_tokens(all_rows[each.tap]) : cuda::kBandlessTokens;
    if (tokens > few) input = std::max(input, tokens * each.columns * 2);
    if (tokens > few && size.precision != Precision::kInvariant) decoded = std::max(decoded, most_decoded(each, turn[each.tap]) * 2);
    int64_t& all = tiles[each.tap];
    all += (each.plane_rows + kTileRows - 1) / kTileRows;
    const int64_t slices = (groups_of(each.columns) + cuda::kMaxLoadGroups - 1) / cuda::kMaxLoadGroups;
    partial = std::max(partial, slices * std::min(tokens, kPassTokens) * all * kTileRows * 4);
    rows[each.tap] += each.rows;
    if (tokens > kPassTokens) partial = std::max(partial, many_bytes(rows[each.tap], each.columns, tokens));
    if (has_bands[each.tap] && tokens > cuda::kManyTokens && size.precision == Precision::kInt8)
      partial = std::max(partial, band_bytes(each.columns, tokens));
  }
  return on_card(input) + on_card(decoded) + on_card(partial);
}

}  // namespace

CardFootprint card_footprint(const ModelSpec& spec, const std::vector<CardMatrix>& matrices, const Network::Size& size, uint64_t kv_bytes) {
  CardFootprint out{.keys_values = on_card(static_cast<int64_t>(kv_bytes)), .fixed = kFixed};
  for (const CardMatrix& matrix : matrices) out.weights += weight_bytes(matrix);
  for (const auto& layer : spec.layers)
    for (const Block& block : layer) {
      out.weights += on_card(block.pre.width * 4) * (block.post ? 2 : 1);
      for (const Linear* linear : linears(block))
        if (linear->bias) out.weights += on_card(linear->out * 4) * static_cast<uint64_t>(std::max<int64_t>(1, linear->experts));
    }
  out.working = product_bytes(spec, matrices, size);
  for (const int64_t floats : forward_floats(spec, size.rows, size.head_rows)) out.working += on_card(floats * 4);
  out.working += on_card(size.rows * spec.hidden * 4) + on_card(size.head_rows * spec.vocabulary * 4);
  return out;
}

std::vector<CardMatrix> card_matrices(const Model& model) {
  std::vector<CardMatrix> out;
  const auto add = [&](const std::string& name, const std::string& tap) {
    const PackedTensor* tensor = model.find(name + ".weight");
    if (!tensor) return;
    const size_t dims = tensor->shape.size();
    const int64_t experts = dims == 3 ? tensor->shape[0] : 1;
    for (int64_t e = 0; e < experts; ++e) {
      CardMatrix matrix{.name = name,
                        .tap = experts > 1 ? fmt::format("{}.{}", tap, e) : tap,
                        .rows = tensor->shape[dims - 2],
                        .columns = tensor->columns()};
      if (tensor->codec == CodecId::kPlain && tensor->parts[0].view.dtype == DType::kF32) matrix.element_bytes = sizeof(float);
      if (tensor->codec == CodecId::kGrid) matrix.plane_rows = grid::open(*tensor, e).layout.plane_rows;
      out.push_back(std::move(matrix));
    }
  };
  for (const Linear* linear : linears(model.spec)) add(linear->name, linear->tap);
  add(model.spec.head.name, model.spec.head.tap);
  if (model.spec.embedding != model.spec.head.name) add(model.spec.embedding, "");
  return out;
}

}  // namespace tq
