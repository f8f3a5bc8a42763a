#include "quantize/misfit.h"

namespace tq {
namespace {

Result<Memory> zeros(Backend& backend, int64_t floats) {
  TQ_ASSIGN(Memory memory, backend.allocate(static_cast<uint64_t>(floats) * sizeof(float)));
  backend.zero(memory.as<float>(), floats);
  return memory;
}

}  // namespace

Result<MisfitMeter> MisfitMeter::create(const MisfitPlace& place, int64_t length, Backend& backend) {
  MisfitMeter meter(place, length, backend);
  for (MisfitSums* sums : {&meter.training_, &meter.held_out_}) {
    TQ_ASSIGN(sums->misfit, zeros(backend, place.rows * place.columns));
  }
  TQ_ASSIGN(meter.held_out_.moment, zeros(backend, place.columns * place.columns));
  TQ_ASSIGN(meter.input_, zeros(backend, length * place.columns));
  TQ_ASSIGN(meter.error_, zeros(backend, length * place.rows));
  return meter;
}

void MisfitMeter::see(const float* input, const Sequence& sequence) {
  backend_->copy(input_.as<float>(), input, static_cast<uint64_t>(length_ * place_.columns) * sizeof(float));
  if (!place_.is_output) add(input_.as<float>(), sequence);
}

void MisfitMeter::finish(const Sequence& sequence) {
  if (place_.is_output) add(sequence.hidden, sequence);
}

void MisfitMeter::add(const float* now, const Sequence& sequence) {
  tq::Training& training = *backend_->training();
  MisfitSums& sums = sequence.is_held_out ? held_out_ : training_;
  training.squared_error({.output = now,
                          .target = sequence.original,
                          .weight = sequence.weight,
                          .gradient = error_.as<float>(),
                          .loss = nullptr,
                          .tokens = length_,
                          .width = place_.rows,
                          .scale = -0.5f});  // u (original - now)
  float* input = input_.as<float>();
  const auto add_product = [&](const float* left, int64_t rows, float* sum) {
    training.weight({.input = input,
                     .gradient = left,
                     .weight_gradient = sum,
                     .tokens = length_,
                     .columns = place_.columns,
                     .all_rows = rows,
                     .first_row = 0,
                     .rows = rows});
  };
  add_product(error_.as<float>(), place_.rows, sums.misfit.as<float>());
  if (!sequence.is_held_out) return;
  for (const float each : sequence.host_weight) sums.weight += static_cast<double>(each);
  sums.tokens += length_;
  // sqrt(u) x on both sides: the sum stays a Gram matrix, whatever a product rounds.
  std::vector<float> root(sequence.host_weight.begin(), sequence.host_weight.end());
  for (float& each : root) each = std::sqrt(each);
  backend_->upload(error_.as<float>(), root.data(), root.size() * sizeof(float));
  training.scale_rows({.values = input, .factor = error_.as<float>(), .rows = length_, .columns = place_.columns});
  add_product(input, place_.columns, sums.moment.as<float>());
}

}  // namespace tq
