// What `tq eval` and `tq compare` share: which texts and tasks, and running several models on them beside one original.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/kept_results.h"
#include "eval/divergence.h"
#include "eval/report/report.h"
#include "eval/tasks/run.h"
#include "graph/network.h"
#include "quantize/calibration.h"

namespace tq::cli {

struct MeasureFlags {
  std::vector<std::string> texts;
  std::string tasks = "kl,ppl", task_data, protocol = "huggingface";
  int64_t window = 1024, windows = 40;
  int64_t rows = 0;
  bool skip_float = false;
  TaskOptions task;
};
void add_measure_flags(CLI::App& app, MeasureFlags& flags);

// What the flags ask for, files read: a pipe can be read once.
struct Measurements {
  struct Text {
    std::string path, content;
  };
  EvalOptions options;
  std::vector<Text> texts;  // empty when neither kl nor ppl is wanted
  std::vector<Task> tasks;
  TaskOptions task;
  bool has_divergence = false;  // of texts, from an original
  bool has_known_task = false;  // which is read from --task-data, not from a file by its name
};
// Errors: kUsage for names and flags that don't go together, those of texts and task files.
Result<Measurements> measurements_of(const MeasureFlags& flags, bool with_original);
std::string protocol_text(Protocol protocol);

// A model, and ready to run once it is prepared; neither moves.
struct Loaded {
  Model model;
  std::optional<Network> network;
};
Result<std::unique_ptr<Loaded>> open(const std::string& path);
Status prepare(Loaded& loaded, Session& session);  // if it is not yet

// The texts as the model's tokenizer encodes them. Errors: kBadInput for one that has less than one window.
Result<std::vector<EvalText>> encode_texts(const Measurements& wanted, const Model& model);
// Whether another model can be measured on these texts of the model as well. Errors: kBadInput when its tokenizer makes others.
Status check_same_tokens(const Measurements& wanted, const std::vector<EvalText>& texts, const Model& model, const Model& other);
// Errors: kUsage for windows that are longer than the model's context.
Status check_windows(const Measurements& wanted, const Model& model);
// Errors: kUsage for flags of texts where none is measured, of tasks where there are none, and of kinds of tasks that are not there.
Status check_measured(const CLI::App& app, const Measurements& wanted);

// What artifacts among the models were calibrated on, as their records name it.
struct KnownCalibration {
  // A text that a user gave: the artifact has its name and hash alone.
  struct File {
    std::string model, name, hash;
  };
  std::vector<CalibrationText> texts;  // what can be had: the built-in one
  std::vector<File> files;
};
KnownCalibration known_calibration(const std::vector<std::unique_ptr<Loaded>>& models);

// Results that need not be measured again, and what tells the models apart: identities of the models in order and of the original.
struct Kept {
  const KeptResults& results;
  std::vector<std::string> names, identities;
  std::string original;
};

// Fills the texts and tasks of report.subjects (one for each model) and report.original_tasks. With print, figures are printed as they
// come. Texts that overlap the calibration's, or are one of its files, are warned about. kept: null, or where results are taken from and
// added to; models are prepared only if something is missing.
struct MeasureRequest {
  const std::vector<std::unique_ptr<Loaded>>& models;
  Loaded* original = nullptr;
  const Measurements& wanted;
  const std::vector<EvalText>& texts;  // those wanted, as every model's tokenizer encodes them
  const KnownCalibration& calibration;
  bool print = false;
  const Kept* kept = nullptr;
};
Status measure(const MeasureRequest& request, Session& session, report::Report& report);

}  // namespace tq::cli
