#include "kernels/cuda/places.h"

#include <algorithm>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/ops.h"

namespace tq::cuda {

Status Places::reserve(int64_t rows) {
  constexpr int64_t kToken = sizeof(int32_t);
  TQ_TRY(places_.reserve(rows * static_cast<int64_t>(sizeof(Place)), generation_));
  TQ_TRY(tokens_.reserve(rows * kToken, generation_));
  return other_tokens_.reserve(rows * kToken, generation_);
}

bool Places::is_repeatable(const PassArgs& pass) {
  return pass.tokens.size() == pass.stretches.size() &&
         std::all_of(pass.stretches.begin(), pass.stretches.end(), [](const Stretch& stretch) { return stretch.tokens == 1; });
}

void Places::begin(const PassArgs& pass, cudaStream_t stream) {
  pass_ = pass, in_pass_ = true;
  is_single_ = is_repeatable(pass);
  set(pass.stretches, is_single_ ? pass.tokens : std::span<const int32_t>(), stream);
}

// tokens: one a stretch, or none.
void Places::set(std::span<const Stretch> stretches, std::span<const int32_t> tokens, cudaStream_t stream) {
  Place* place = places_.get<Place>(std::max<int64_t>(1, tokens_of(stretches)), generation_);
  int32_t* token = tokens.empty() ? nullptr : tokens_.get<int32_t>(static_cast<int64_t>(tokens.size()), generation_);
  for (size_t first = 0; first < stretches.size(); first += kMaxPlaced) {
    PlaceArgs args{.place = place, .token = token};
    for (size_t i = first; i < std::min(stretches.size(), first + kMaxPlaced); ++i) {
      const Stretch& stretch = stretches[i];
      args.stretch[args.stretches++] = {stretch.pages, args.rows, static_cast<int32_t>(stretch.first_position), token ? tokens[i] : 0};
      args.rows += static_cast<int32_t>(stretch.tokens);
    }
    set_places(args, stream);
    place += args.rows;
    if (token) token += args.rows;
  }
}

const Place* Places::of(std::span<const Stretch> stretches, cudaStream_t stream) {
  if (!in_pass_) {
    set(stretches, {}, stream);
    return places_.as<Place>();
  }
  const auto first = static_cast<size_t>(stretches.data() - pass_.stretches.data());
  TQ_CHECK(first + stretches.size() <= pass_.stretches.size());
  return places_.as<Place>() + tokens_of(pass_.stretches.first(first));
}

const int32_t* Places::tokens(std::span<const int32_t> tokens, cudaStream_t stream) {
  if (in_pass_ && is_single_ && tokens.data() == pass_.tokens.data() && tokens.size() == pass_.tokens.size()) return tokens_.as<int32_t>();
  auto* all = other_tokens_.get<int32_t>(static_cast<int64_t>(tokens.size()), generation_);
  expect(cudaMemcpyAsync(all, tokens.data(), tokens.size_bytes(), cudaMemcpyHostToDevice, stream), "upload");
  expect(cudaStreamSynchronize(stream), "waiting for the card");
  return all;
}

}  // namespace tq::cuda
