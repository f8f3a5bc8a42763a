// A parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "token/jinja/operators.h"

namespace tq::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kConstant,
  kName,
  kPiped,  // what a filter block or a set block filters
  kList,
  kTuple,
  kDict,         // parts: key, value, key, value, …
  kConditional,  // parts: condition, then, else (may be absent)
  kOr,
  kAnd,
  kNot,
  kCompare,  // parts: operands; comparisons between them
  kConcat,
  kBinary,
  kNegate,
  kPlus,
  kAttribute,
  kItem,
  kSlice,  // parts: object, start, stop, step (each may be absent)
  kCall,   // parts[0] is called; of a filter or test: its subject
  kFilter,
  kTest,
};

enum class Comparison { kEqual, kUnequal, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star, double_star;
};

struct Expression {
  ExpressionKind kind;
  int line;
  int height = 1;  // of the tree: bounds every recursion over it
  std::string name = {};
  Value value = {};
  Operator op = {};
  std::vector<ExpressionPtr> parts = {};
  std::vector<Comparison> comparisons = {};
  CallArguments arguments = {};
};

struct Target {
  std::string name;
  std::string attribute = {};  // of a namespace
  bool is_tuple = false;
  std::vector<Target> parts = {};  // of a tuple
};

enum class StatementKind {
  kData,
  kPrint,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kGeneration,
  kBreak,
  kContinue
};

struct Statement;
using Body = std::vector<Statement>;

struct Branch {
  ExpressionPtr condition;  // absent: else
  Body body;
};

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  // may be absent
};

struct Macro {
  std::string name;
  std::vector<Parameter> parameters;
  bool takes_varargs = false, takes_kwargs = false, takes_caller = false;
  Body body;
};

struct Statement {
  StatementKind kind;
  int line;
  std::string text = {};          // data
  ExpressionPtr expression = {};  // printed, iterated over, assigned, called, or the filter of a block (may be absent)
  ExpressionPtr condition = {};   // of a for
  Target target = {};
  std::vector<std::pair<Target, ExpressionPtr>> assignments = {};  // of a with
  std::vector<Branch> branches = {};
  std::unique_ptr<Macro> macro = {};
  Body body = {}, otherwise = {};
};

// Throws Problem.
Body parse(std::string_view source);

}  // namespace tq::jinja
