#include "quantize/compensation.h"

namespace tq {
namespace {

// Of the few tokens of effort normal, late layers want the larger ones; of many tokens, early layers and `down` the smaller ones.
constexpr double kRidges[] = {0.1, 0.4, 1.6, 6.4};

class Search {
 public:
  Search(const CompensationInput& input, Backend& backend)
      : input_(input), backend_(backend), training_(*backend.training()), place_(input.misfit.place()) {}

  Result<std::optional<Compensation>> run() {
    for (Memory* memory : {&change_, &moved_}) {
      TQ_ASSIGN(*memory, backend_.allocate(bytes_of_change()));
    }
    if (input_.metric) {
      TQ_ASSIGN(measured_, backend_.allocate(bytes_of_change()));
    }
    TQ_ASSIGN(matrix_, backend_.allocate(bytes_of_moment()));
    std::optional<Compensation> best;
    for (const double ridge : kRidges) {
      backend_.copy(matrix_.as<float>(), input_.moment, bytes_of_moment());
      backend_.copy(change_.as<float>(), input_.misfit.training().misfit.as<float>(), bytes_of_change());
      TQ_ASSIGN(const bool is_definite, training_.solve({.matrix = matrix_.as<float>(),
                                                         .right = change_.as<float>(),
                                                         .rows = place_.rows,
                                                         .columns = place_.columns,
                                                         .ridge = ridge}));
      if (!is_definite) continue;
      const double gain = held_out_gain();
      if (!(gain > (best ? best->gain : 0.0))) continue;
      if (!best) {
        TQ_ASSIGN(Memory kept, backend_.allocate(bytes_of_change()));
        best = Compensation{std::move(kept), 0, 0};
      }
      std::swap(best->change, change_);
      best->ridge = ridge, best->gain = gain;
    }
    return best;
  }

 private:
  uint64_t bytes_of_change() const { return static_cast<uint64_t>(place_.rows * place_.columns) * sizeof(float); }
  uint64_t bytes_of_moment() const { return static_cast<uint64_t>(place_.columns * place_.columns) * sizeof(float); }

  // 2 tr(S X G^T) - tr(S X H X^T) of the held-out sums G, H and the metric S.
  double held_out_gain() {
    const MisfitSums& held_out = input_.misfit.held_out();
    const float* change = change_.as<float>();
    training_.product({.left = change,
                       .right = held_out.moment.as<float>(),
                       .output = moved_.as<float>(),
                       .rows = place_.rows,
                       .columns = place_.columns,
                       .depth = place_.columns});
    if (input_.metric) {
      training_.product({.left = input_.metric,
                         .right = change_.as<float>(),
                         .output = measured_.as<float>(),
                         .rows = place_.rows,
                         .columns = place_.columns,
                         .depth = place_.rows});
      change = measured_.as<float>();
    }
    const int64_t count = place_.rows * place_.columns;
    return 2 * training_.dot(change, held_out.misfit.as<float>(), count) - training_.dot(change, moved_.as<float>(), count);
  }

  const CompensationInput& input_;
  Backend& backend_;
  tq::Training& training_;
  const MisfitPlace& place_;
  Memory change_, moved_, measured_, matrix_;  // [R, C]: X, X H, S X; [C, C]
};

}  // namespace

Result<std::optional<Compensation>> find_compensation(const CompensationInput& input, Backend& backend) {
  return Search(input, backend).run();
}

}  // namespace tq
