#include "quantize/step_file.h"

namespace tq {
namespace {

// Before the name of a tensor, a tap point, a step.
const std::string kErrorKey = "error ", kExpertsKey = "experts ", kInputKey = "input ", kCalibrationKey = "calibration ";

uint8_t activation_bits_of(const TensorPlan& tensor, const Loss& loss) {
  if (tensor.linear.role == Role::kHead) return kFineActivationBits;
  return static_cast<uint8_t>(activation_bits(tensor.rates, loss.activation_error, loss.measured_error));
}

std::map<std::string, std::string> metadata_of(const std::string& step, const std::vector<TensorPlan>& tensors, const RoundedStep& rounded,
                                               const CalibrationFacts* facts) {
  std::map<std::string, std::string> metadata;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Loss& loss = rounded.tensors[i].loss;
    metadata[kErrorKey + tensors[i].linear.name] = fmt::format("{:.17g}", loss.energy > 0 ? loss.error / loss.energy : 0.0);
  }
  for (const auto& [tap, letters] : rounded.experts) metadata[kExpertsKey + tap] = letters;
  for (const auto& [tap, input] : rounded.inputs) metadata[kInputKey + tap] = input.text();
  if (facts) metadata[kCalibrationKey + step] = fmt::format("{:.17g} {:.17g} {:d}", facts->plain, facts->calibrated, facts->is_kept);
  return metadata;
}

CalibrationFacts calibration_facts(const std::string& text) {
  char* end = nullptr;
  const double plain = std::strtod(text.c_str(), &end);
  const double calibrated = std::strtod(end, &end);
  return {plain, calibrated, std::strtol(end, nullptr, 10) != 0};
}

JobFolder::Array array_of(std::string name, DType dtype, std::span<const std::byte> bytes) {
  return {{std::move(name), dtype, {static_cast<int64_t>(bytes.size() / dtype_size(dtype))}}, bytes};
}

}  // namespace

Status save_step_file(JobFolder& folder, const std::string& step, const std::vector<TensorPlan>& tensors, const RoundedStep& rounded,
                      const CalibrationFacts* facts) {
  std::vector<JobFolder::Array> arrays;
  std::vector<uint8_t> precision;
  for (size_t i = 0; i < tensors.size(); ++i) precision.push_back(activation_bits_of(tensors[i], rounded.tensors[i].loss));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].linear.name;
    for (const RoundedPart& part : rounded.tensors[i].parts) arrays.push_back(array_of(name + "." + part.name, part.dtype, part.bytes));
    if (tensors[i].method == Method::kTurboquant)
      arrays.push_back(array_of(name + ".activation_bits", DType::kU8, std::as_bytes(std::span<const uint8_t>(&precision[i], 1))));
  }
  for (const auto& [name, values] : rounded.changed)
    arrays.push_back(array_of(name, DType::kF32, std::as_bytes(std::span<const float>(values))));
  for (const auto& [tap, sign] : rounded.signs)
    arrays.push_back(array_of(tap + ".sign", DType::kU8, std::as_bytes(std::span<const uint8_t>(sign))));
  return folder.save_step(step, arrays, metadata_of(step, tensors, rounded, facts));
}

void read_step_facts(const safetensors::Archive& file, StepFacts& facts) {
  for (const auto& [key, value] : file.metadata()) {
    if (key.starts_with(kErrorKey)) facts.errors[key.substr(kErrorKey.size())] = std::strtod(value.c_str(), nullptr);
    if (key.starts_with(kExpertsKey)) facts.experts[key.substr(kExpertsKey.size())] = value;
    if (key.starts_with(kInputKey)) facts.inputs[key.substr(kInputKey.size())] = input_facts(value);
    if (key.starts_with(kCalibrationKey)) facts.calibration[key.substr(kCalibrationKey.size())] = calibration_facts(value);
  }
}

}  // namespace tq
