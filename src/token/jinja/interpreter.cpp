#include "token/jinja/interpreter.h"

#include <algorithm>

#include "token/jinja/print.h"

namespace tq::jinja {
namespace {

enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  explicit Interpreter(Runtime& runtime) : runtime_(runtime) {}
  std::string render(const Body& body, const ScopePtr& scope) {
    Growing out(runtime_);
    execute(body, scope, out);
    return out.take();
  }

 private:
  // statements
  Flow execute(const Body& body, const ScopePtr& scope, Growing& out);
  Flow execute(const Statement& statement, const ScopePtr& scope, Growing& out);
  Flow run_if(const Statement& statement, const ScopePtr& scope, Growing& out);
  Flow run_for(const Statement& statement, const ScopePtr& scope, Growing& out);
  Flow run_with(const Statement& statement, const ScopePtr& scope, Growing& out);
  Value capture(const Statement& statement, const ScopePtr& scope);
  void assign(const Target& target, const Value& value, const ScopePtr& scope);
  void assign_attribute(const Target& target, const Value& value, const ScopePtr& scope);
  Value make_macro(const Macro& macro, const ScopePtr& scope);
  Value call_macro(const Macro& macro, const ScopePtr& closure, const Arguments& arguments);

  // expressions
  Value evaluate(const Expression& e, const ScopePtr& scope);
  Value evaluate_kind(const Expression& e, const ScopePtr& scope);
  Value lookup(const std::string& name, const ScopePtr& scope);
  Value compare_chain(const Expression& e, const ScopePtr& scope);
  Value concat(const Expression& e, const ScopePtr& scope);
  Value dict(const Expression& e, const ScopePtr& scope);
  Values evaluate_parts(const Expression& e, const ScopePtr& scope);
  Value conditional(const Expression& e, const ScopePtr& scope);
  Value call(const Expression& e, const ScopePtr& scope, const Value* caller);
  Arguments arguments(const CallArguments& call, const ScopePtr& scope);
  Value optional(const Expression& e, size_t part, const ScopePtr& scope) {
    return e.parts[part] ? evaluate(*e.parts[part], scope) : Value(None{});
  }

  Runtime& runtime_;
  Values piped_;
};

ScopePtr inner_scope(const ScopePtr& parent) { return std::make_shared<Scope>(Scope{parent}); }

Flow Interpreter::execute(const Body& body, const ScopePtr& scope, Growing& out) {
  for (const Statement& statement : body)
    if (const Flow flow = execute(statement, scope, out); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Flow Interpreter::execute(const Statement& statement, const ScopePtr& scope, Growing& out) {
  const Runtime::Nested nested(runtime_);
  runtime_.step();
  runtime_.set_line(statement.line);
  switch (statement.kind) {
    case StatementKind::kData: out.add(statement.text); break;
    case StatementKind::kPrint: out.add(to_text(runtime_, evaluate(*statement.expression, scope))); break;
    case StatementKind::kIf: return run_if(statement, scope, out);
    case StatementKind::kFor: return run_for(statement, scope, out);
    case StatementKind::kSet: assign(statement.target, evaluate(*statement.expression, scope), scope); break;
    case StatementKind::kSetBlock: assign(statement.target, capture(statement, scope), scope); break;
    case StatementKind::kMacro: scope->variables[statement.macro->name] = make_macro(*statement.macro, scope); break;
    case StatementKind::kCallBlock: {
      const Value caller = make_macro(*statement.macro, scope);
      out.add(to_text(runtime_, call(*statement.expression, scope, &caller)));
      break;
    }
    case StatementKind::kFilterBlock: out.add(to_text(runtime_, capture(statement, scope))); break;
    case StatementKind::kWith: return run_with(statement, scope, out);
    case StatementKind::kGeneration: execute(statement.body, inner_scope(scope), out); break;
    case StatementKind::kBreak: return Flow::kBreak;
    case StatementKind::kContinue: return Flow::kContinue;
  }
  return Flow::kNext;
}

Flow Interpreter::run_if(const Statement& statement, const ScopePtr& scope, Growing& out) {
  for (const Branch& branch : statement.branches)
    if (!branch.condition || truth(evaluate(*branch.condition, scope))) return execute(branch.body, scope, out);
  return Flow::kNext;
}

// Takes the loop's items away at its end: a chain of loops that hold each other must not outlive them.
struct LoopEnd {
  std::shared_ptr<Loop> loop;
  ~LoopEnd() {
    loop->items.clear();
    loop->last_changed = Value();
  }
};

Flow Interpreter::run_for(const Statement& statement, const ScopePtr& scope, Growing& out) {
  Values items = iterate(runtime_, evaluate(*statement.expression, scope));
  if (statement.condition) {
    Values kept;
    for (const Value& one : items) {
      const ScopePtr filtered = inner_scope(scope);
      assign(statement.target, one, filtered);
      if (truth(evaluate(*statement.condition, filtered))) kept.push_back(one);
    }
    items = std::move(kept);
  }
  if (items.empty()) return execute(statement.otherwise, inner_scope(scope), out);  // a break in it leaves the loop around
  const LoopEnd end{std::make_shared<Loop>()};
  Loop& loop = *end.loop;
  loop.length = static_cast<int64_t>(items.size());
  loop.items = std::move(items);
  for (loop.index = 0; loop.index < loop.length; ++loop.index) {
    runtime_.step(4);
    const ScopePtr inside = inner_scope(scope);
    inside->variables["loop"] = end.loop;
    assign(statement.target, loop.items[static_cast<size_t>(loop.index)], inside);
    if (execute(statement.body, inside, out) == Flow::kBreak) break;
  }
  return Flow::kNext;
}

Flow Interpreter::run_with(const Statement& statement, const ScopePtr& scope, Growing& out) {
  const ScopePtr inside = inner_scope(scope);
  for (const auto& [target, expression] : statement.assignments) assign(target, evaluate(*expression, scope), inside);
  return execute(statement.body, inside, out);
}

// The text of a block, through its filters.
Value Interpreter::capture(const Statement& statement, const ScopePtr& scope) {
  Growing inner(runtime_);
  execute(statement.body, inner_scope(scope), inner);
  piped_.push_back(runtime_.make_text(inner.take()));
  Value out = evaluate(*statement.expression, scope);
  piped_.pop_back();
  return out;
}

void Interpreter::assign_attribute(const Target& target, const Value& value, const ScopePtr& scope) {
  const Value object = lookup(target.name, scope);
  Namespace* space = object.name_space();
  if (!space) fail("'{}' is no namespace: its attribute '{}' can't be set", target.name, target.attribute);
  for (auto& [name, held] : space->attributes)
    if (name == target.attribute) {
      held = value;
      return;
    }
  runtime_.allocate(sizeof(space->attributes[0]) + target.attribute.size());
  space->attributes.emplace_back(target.attribute, value);
}

void Interpreter::assign(const Target& target, const Value& value, const ScopePtr& scope) {
  if (!target.attribute.empty()) return assign_attribute(target, value, scope);
  if (!target.is_tuple) {
    runtime_.allocate(64);
    scope->variables[target.name] = value;
    return;
  }
  const Values items = iterate(runtime_, value);
  if (items.size() != target.parts.size()) fail("{} values can't be unpacked to {} names", items.size(), target.parts.size());
  for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope);
}

Value Interpreter::make_macro(const Macro& macro, const ScopePtr& scope) {
  runtime_.keep(scope);
  return std::make_shared<const Function>(Function{
      macro.name, [this, &macro, closure = scope](Runtime&, const Arguments& given) { return call_macro(macro, closure, given); }});
}

Value Interpreter::call_macro(const Macro& macro, const ScopePtr& closure, const Arguments& given) {
  const Runtime::Nested nested(runtime_);
  const ScopePtr scope = inner_scope(closure);
  Values rest;
  for (size_t i = 0; i < given.positional.size(); ++i) {
    if (i < macro.parameters.size()) scope->variables[macro.parameters[i].name] = given.positional[i];
    else rest.push_back(given.positional[i]);
  }
  if (!rest.empty() && !macro.takes_varargs) fail("macro '{}' takes no more than {} arguments", macro.name, macro.parameters.size());
  std::vector<std::pair<Value, Value>> extra;
  for (const auto& [name, value] : given.named) {
    const bool known =
        std::any_of(macro.parameters.begin(), macro.parameters.end(), [&n = name](const Parameter& p) { return p.name == n; });
    if (known) {
      if (!scope->variables.emplace(name, value).second) fail("macro '{}' gets '{}' twice", macro.name, name);
    } else if (name == "caller" && macro.takes_caller) {
      scope->variables["caller"] = value;
    } else if (macro.takes_kwargs) {
      extra.emplace_back(runtime_.make_text(name), value);
    } else {
      fail("macro '{}' has no parameter '{}'", macro.name, name);
    }
  }
  if (macro.takes_varargs) scope->variables["varargs"] = make_sequence(runtime_, std::move(rest), Flavour::kTuple);
  if (macro.takes_kwargs) scope->variables["kwargs"] = make_dict(runtime_, std::move(extra));
  if (macro.takes_caller && !scope->variables.contains("caller")) scope->variables["caller"] = Value::undefined("No caller defined");
  for (const Parameter& parameter : macro.parameters) {
    if (scope->variables.contains(parameter.name)) continue;
    Value value = parameter.fallback ? evaluate(*parameter.fallback, scope)
                                     : Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    scope->variables[parameter.name] = std::move(value);
  }
  Growing out(runtime_);
  execute(macro.body, scope, out);
  return runtime_.make_text(out.take());
}

Value Interpreter::evaluate(const Expression& e, const ScopePtr& scope) {
  const Runtime::Nested nested(runtime_);
  runtime_.step();
  runtime_.set_line(e.line);
  return evaluate_kind(e, scope);
}

Value Interpreter::lookup(const std::string& name, const ScopePtr& scope) {
  for (const Scope* at = scope.get(); at; at = at->parent.get())
    if (const auto found = at->variables.find(name); found != at->variables.end()) return found->second;
  return Value::undefined(fmt::format("'{}' is undefined", name));
}

Values Interpreter::evaluate_parts(const Expression& e, const ScopePtr& scope) {
  Values out;
  for (const auto& part : e.parts) out.push_back(evaluate(*part, scope));
  return out;
}

Value Interpreter::conditional(const Expression& e, const ScopePtr& scope) {
  if (truth(evaluate(*e.parts[0], scope))) return evaluate(*e.parts[1], scope);
  if (e.parts[2]) return evaluate(*e.parts[2], scope);
  return Value::undefined("an inline if was false and has no else");
}

Value Interpreter::evaluate_kind(const Expression& e, const ScopePtr& scope) {
  const auto part = [&](size_t i) { return evaluate(*e.parts[i], scope); };
  switch (e.kind) {
    case ExpressionKind::kConstant: return e.value;
    case ExpressionKind::kName: return lookup(e.name, scope);
    case ExpressionKind::kPiped: return piped_.back();
    case ExpressionKind::kList: return make_sequence(runtime_, evaluate_parts(e, scope));
    case ExpressionKind::kTuple: return make_sequence(runtime_, evaluate_parts(e, scope), Flavour::kTuple);
    case ExpressionKind::kDict: return dict(e, scope);
    case ExpressionKind::kConditional: return conditional(e, scope);
    case ExpressionKind::kOr:
    case ExpressionKind::kAnd: {
      Value left = part(0);
      return truth(left) == (e.kind == ExpressionKind::kOr) ? left : part(1);
    }
    case ExpressionKind::kNot: return !truth(part(0));
    case ExpressionKind::kCompare: return compare_chain(e, scope);
    case ExpressionKind::kConcat: return concat(e, scope);
    case ExpressionKind::kBinary: {
      const Value left = part(0), right = part(1);
      return operate(runtime_, e.op, left, right);
    }
    case ExpressionKind::kNegate: return negate(part(0));
    case ExpressionKind::kPlus: {
      const Value value = part(0);
      return value.is_float() ? value : Value(whole_number(value, "what '+' is applied to"));
    }
    case ExpressionKind::kAttribute: return attribute(runtime_, part(0), e.name);
    case ExpressionKind::kItem: {
      const Value object = part(0), key = part(1);
      return item(runtime_, object, key);
    }
    case ExpressionKind::kSlice: {
      const Value object = part(0), start = optional(e, 1, scope), stop = optional(e, 2, scope), step = optional(e, 3, scope);
      return slice(runtime_, object, start, stop, step);
    }
    case ExpressionKind::kCall: return call(e, scope, nullptr);
    case ExpressionKind::kFilter: {
      const Value subject = part(0);
      return apply_filter(runtime_, e.name, subject, arguments(e.arguments, scope));
    }
    case ExpressionKind::kTest: {
      const Value subject = part(0);
      return apply_test(runtime_, e.name, subject, arguments(e.arguments, scope));
    }
  }
  return Value();
}

Value Interpreter::compare_chain(const Expression& e, const ScopePtr& scope) {
  Value left = evaluate(*e.parts[0], scope);
  for (size_t i = 0; i < e.comparisons.size(); ++i) {
    Value right = evaluate(*e.parts[i + 1], scope);
    bool holds = false;
    switch (e.comparisons[i]) {
      case Comparison::kEqual: holds = equal(runtime_, left, right); break;
      case Comparison::kUnequal: holds = !equal(runtime_, left, right); break;
      case Comparison::kLess: holds = compare(runtime_, left, right) < 0; break;
      case Comparison::kLessEqual: holds = compare(runtime_, left, right) <= 0; break;
      case Comparison::kGreater: holds = compare(runtime_, left, right) > 0; break;
      case Comparison::kGreaterEqual: holds = compare(runtime_, left, right) >= 0; break;
      case Comparison::kIn: holds = contains(runtime_, right, left); break;
      case Comparison::kNotIn: holds = !contains(runtime_, right, left); break;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::concat(const Expression& e, const ScopePtr& scope) {
  Growing out(runtime_);
  for (const auto& part : e.parts) out.add(to_text(runtime_, evaluate(*part, scope)));
  return runtime_.make_text(out.take());
}

Value Interpreter::dict(const Expression& e, const ScopePtr& scope) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < e.parts.size(); i += 2) {
    Value key = evaluate(*e.parts[i], scope), value = evaluate(*e.parts[i + 1], scope);
    insert(runtime_, entries, std::move(key), std::move(value));
  }
  return make_dict(runtime_, std::move(entries));
}

Arguments Interpreter::arguments(const CallArguments& call, const ScopePtr& scope) {
  Arguments out;
  for (const auto& one : call.positional) out.positional.push_back(evaluate(*one, scope));
  for (const auto& [name, one] : call.named) out.named.emplace_back(name, evaluate(*one, scope));
  if (call.star)
    for (Value& one : iterate(runtime_, evaluate(*call.star, scope))) out.positional.push_back(std::move(one));
  if (call.double_star) {
    const Value more = evaluate(*call.double_star, scope);
    if (!more.dict()) fail("what follows '**' should be a dict, not a {}", type_name(more));
    runtime_.allocate(more.dict()->entries.size() * 64);
    for (const auto& [key, value] : more.dict()->entries) {
      if (!key.is_text()) fail("the names of arguments should be texts");
      out.named.emplace_back(key.text(), value);
    }
  }
  return out;
}

Value Interpreter::call(const Expression& e, const ScopePtr& scope, const Value* caller) {
  const Value callee = evaluate(*e.parts[0], scope);
  Arguments given = arguments(e.arguments, scope);
  if (caller) given.named.emplace_back("caller", *caller);
  runtime_.set_line(e.line);
  if (callee.is_undefined()) fail_undefined(callee);
  const Function* function = callee.function();
  if (!function) fail("a {} can't be called", type_name(callee));
  return function->call(runtime_, given);
}

}  // namespace

Value apply_filter(Runtime& runtime, const std::string& name, const Value& subject, const Arguments& arguments) {
  const Filter filter = find_filter(name);
  if (!filter) fail("there is no filter '{}'", name);
  const Runtime::Nested nested(runtime);
  return filter(runtime, subject, arguments);
}

bool apply_test(Runtime& runtime, const std::string& name, const Value& subject, const Arguments& arguments) {
  const Test test = find_test(name);
  if (!test) fail("there is no test '{}'", name);
  return test(runtime, subject, arguments);
}

std::string render(const Body& body, Runtime& runtime, std::vector<std::pair<std::string, Value>> variables) {
  auto root = std::make_shared<Scope>();
  add_globals(*root);
  for (auto& [name, value] : variables) root->variables[name] = std::move(value);
  return Interpreter(runtime).render(body, root);
}

}  // namespace tq::jinja
