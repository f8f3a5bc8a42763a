#include <algorithm>
#include <charconv>

#include "token/jinja/parser.h"

namespace tq::jinja {
namespace {

constexpr int kMaxNesting = 60;  // of parentheses, brackets and blocks
constexpr int kMaxHeight = 300;  // of an expression's tree

Value integer_literal(const Token& token) {
  const std::string& text = token.text;
  int base = 10;
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
  }
  const char* begin = text.data() + (base == 10 ? 0 : 2);
  const char* end = text.data() + text.size();
  int64_t out = 0;
  const auto read = std::from_chars(begin, end, out, base);
  if (read.ec == std::errc::result_out_of_range) throw Problem{fmt::format("the integer {:.40} is beyond 63 bits", text), token.line};
  if (read.ptr != end || (base == 10 && text.size() > 1 && text[0] == '0' && out != 0))
    throw Problem{fmt::format("'{:.40}' is no number", text), token.line};
  return out;
}

}  // namespace

struct Parser::Level {
  explicit Level(Parser& parser) : parser_(parser) {
    if (++parser_.depth_ > kMaxNesting) throw Problem{fmt::format("nested deeper than {} levels", kMaxNesting), parser_.now().line};
  }
  ~Level() { --parser_.depth_; }
  Parser& parser_;
};

bool Parser::skip_operator(std::string_view text) {
  const bool found = is_operator(text);
  if (found) advance();
  return found;
}

bool Parser::skip_name(std::string_view text) {
  const bool found = is_name(text);
  if (found) advance();
  return found;
}

void Parser::unexpected(std::string_view wanted) const {
  static constexpr const char* kKinds[] = {"text", "'{{'", "'}}'", "'{%'", "'%}'", "", "a string", "", "", "", "the end of the template"};
  const std::string got = now().kind == TokenKind::kName || now().kind >= TokenKind::kInteger
                              ? (now().kind == TokenKind::kEnd ? kKinds[10] : fmt::format("'{:.40}'", now().text))
                              : kKinds[static_cast<int>(now().kind)];
  throw Problem{wanted.empty() ? "unexpected " + got : fmt::format("expected {}, found {}", wanted, got), now().line};
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) unexpected(fmt::format("'{}'", text));
}

std::string Parser::expect_name() {
  if (now().kind != TokenKind::kName) unexpected("a name");
  std::string name = now().text;
  advance();
  return name;
}

void Parser::grow(Expression& expression) const {
  int height = 0;
  const auto look = [&](const ExpressionPtr& part) { height = std::max(height, part ? part->height : 0); };
  for (const auto& part : expression.parts) look(part);
  for (const auto& part : expression.arguments.positional) look(part);
  for (const auto& [name, part] : expression.arguments.named) look(part);
  look(expression.arguments.star);
  look(expression.arguments.double_star);
  expression.height = height + 1;
  if (expression.height > kMaxHeight) throw Problem{fmt::format("an expression of more than {} levels", kMaxHeight), expression.line};
}

ExpressionPtr Parser::make(ExpressionKind kind, int line, std::vector<ExpressionPtr> parts) const {
  auto out = std::make_unique<Expression>(Expression{.kind = kind, .line = line});
  out->parts = std::move(parts);
  grow(*out);
  return out;
}

namespace {

std::vector<ExpressionPtr> parts_of(ExpressionPtr a, ExpressionPtr b) {
  std::vector<ExpressionPtr> out;
  out.push_back(std::move(a));
  out.push_back(std::move(b));
  return out;
}

std::vector<ExpressionPtr> parts_of(ExpressionPtr a) {
  std::vector<ExpressionPtr> out;
  out.push_back(std::move(a));
  return out;
}

}  // namespace

ExpressionPtr Parser::expression(bool with_condition) {
  const Level level(*this);
  return with_condition ? conditional() : either();
}

ExpressionPtr Parser::conditional() {
  ExpressionPtr left = either();
  while (is_name("if")) {
    const int line = now().line;
    advance();
    auto parts = parts_of(either(), std::move(left));
    parts.push_back(skip_name("else") ? expression() : nullptr);
    left = make(ExpressionKind::kConditional, line, std::move(parts));
  }
  return left;
}

ExpressionPtr Parser::either() {
  ExpressionPtr left = both();
  for (int line = now().line; skip_name("or"); line = now().line) left = make(ExpressionKind::kOr, line, parts_of(std::move(left), both()));
  return left;
}

ExpressionPtr Parser::both() {
  ExpressionPtr left = negation();
  for (int line = now().line; skip_name("and"); line = now().line)
    left = make(ExpressionKind::kAnd, line, parts_of(std::move(left), negation()));
  return left;
}

ExpressionPtr Parser::negation() {
  const int line = now().line;
  if (!skip_name("not")) return comparison();
  const Level level(*this);
  return make(ExpressionKind::kNot, line, parts_of(negation()));
}

ExpressionPtr Parser::comparison() {
  static constexpr std::pair<const char*, Comparison> kSigns[] = {{"==", Comparison::kEqual},  {"!=", Comparison::kUnequal},
                                                                  {"<", Comparison::kLess},    {"<=", Comparison::kLessEqual},
                                                                  {">", Comparison::kGreater}, {">=", Comparison::kGreaterEqual}};
  const int line = now().line;
  auto parts = parts_of(sum());
  std::vector<Comparison> comparisons;
  for (;;) {
    const auto* sign = std::find_if(std::begin(kSigns), std::end(kSigns), [&](const auto& one) { return is_operator(one.first); });
    if (sign != std::end(kSigns)) {
      comparisons.push_back(sign->second);
      advance();
    } else if (skip_name("in")) {
      comparisons.push_back(Comparison::kIn);
    } else if (is_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
      comparisons.push_back(Comparison::kNotIn);
      advance(), advance();
    } else {
      break;
    }
    parts.push_back(sum());
  }
  if (comparisons.empty()) return std::move(parts[0]);
  auto out = make(ExpressionKind::kCompare, line, std::move(parts));
  out->comparisons = std::move(comparisons);
  return out;
}

ExpressionPtr Parser::sum() {
  ExpressionPtr left = concat();
  while (is_operator("+") || is_operator("-")) {
    const Operator op = is_operator("+") ? Operator::kAdd : Operator::kSubtract;
    const int line = now().line;
    advance();
    left = make(ExpressionKind::kBinary, line, parts_of(std::move(left), concat()));
    left->op = op;
  }
  return left;
}

ExpressionPtr Parser::concat() {
  const int line = now().line;
  auto parts = parts_of(product());
  while (skip_operator("~")) parts.push_back(product());
  return parts.size() == 1 ? std::move(parts[0]) : make(ExpressionKind::kConcat, line, std::move(parts));
}

ExpressionPtr Parser::product() {
  static constexpr std::pair<const char*, Operator> kSigns[] = {
      {"*", Operator::kMultiply}, {"/", Operator::kDivide}, {"//", Operator::kFloorDivide}, {"%", Operator::kModulo}};
  ExpressionPtr left = power();
  for (;;) {
    const auto* sign = std::find_if(std::begin(kSigns), std::end(kSigns), [&](const auto& one) { return is_operator(one.first); });
    if (sign == std::end(kSigns)) return left;
    const int line = now().line;
    advance();
    left = make(ExpressionKind::kBinary, line, parts_of(std::move(left), power()));
    left->op = sign->second;
  }
}

ExpressionPtr Parser::power() {
  ExpressionPtr left = unary();
  for (int line = now().line; skip_operator("**"); line = now().line) {
    left = make(ExpressionKind::kBinary, line, parts_of(std::move(left), unary()));
    left->op = Operator::kPower;
  }
  return left;
}

ExpressionPtr Parser::unary(bool with_filter) {
  const int line = now().line;
  ExpressionPtr out;
  if (is_operator("-") || is_operator("+")) {
    const Level level(*this);
    const auto kind = is_operator("-") ? ExpressionKind::kNegate : ExpressionKind::kPlus;
    advance();
    out = make(kind, line, parts_of(unary(false)));
  } else {
    out = primary();
  }
  out = postfix(std::move(out));
  return with_filter ? filters_and_tests(std::move(out)) : std::move(out);
}

ExpressionPtr Parser::primary() {
  const Token token = now();
  if (token.kind == TokenKind::kName) return name_or_constant();
  if (is_operator("[")) return list();
  if (is_operator("{")) return dict();
  if (skip_operator("(")) {
    ExpressionPtr out = tuple(true, true);
    expect_operator(")");
    return out;
  }
  auto out = make(ExpressionKind::kConstant, token.line);
  if (token.kind == TokenKind::kString) {
    std::string text;
    for (; now().kind == TokenKind::kString; advance()) text += now().text;
    out->value = Value(std::move(text));
    return out;
  }
  if (token.kind == TokenKind::kInteger) {
    out->value = integer_literal(token);
  } else if (token.kind == TokenKind::kFloat) {
    double number = 0;
    std::from_chars(token.text.data(), token.text.data() + token.text.size(), number);
    out->value = number;
  } else {
    unexpected();
  }
  advance();
  return out;
}

ExpressionPtr Parser::name_or_constant() {
  const int line = now().line;
  const std::string name = expect_name();
  auto out = make(ExpressionKind::kConstant, line);
  if (name == "true" || name == "True") out->value = true;
  else if (name == "false" || name == "False") out->value = false;
  else if (name == "none" || name == "None") out->value = None{};
  else {
    out->kind = ExpressionKind::kName;
    out->name = name;
    if (macro_ && name == "varargs") macro_->takes_varargs = true;
    if (macro_ && name == "kwargs") macro_->takes_kwargs = true;
    if (macro_ && name == "caller") macro_->takes_caller = true;
  }
  return out;
}

ExpressionPtr Parser::list() {
  const int line = now().line;
  expect_operator("[");
  std::vector<ExpressionPtr> items;
  while (!is_operator("]")) {
    if (!items.empty()) expect_operator(",");
    if (is_operator("]")) break;
    items.push_back(expression());
  }
  expect_operator("]");
  return make(ExpressionKind::kList, line, std::move(items));
}

ExpressionPtr Parser::dict() {
  const int line = now().line;
  expect_operator("{");
  std::vector<ExpressionPtr> parts;
  while (!is_operator("}")) {
    if (!parts.empty()) expect_operator(",");
    if (is_operator("}")) break;
    parts.push_back(expression());
    expect_operator(":");
    parts.push_back(expression());
  }
  expect_operator("}");
  return make(ExpressionKind::kDict, line, std::move(parts));
}

ExpressionPtr Parser::tuple(bool with_condition, bool parenthesized, std::string_view end_name) {
  const int line = now().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  for (;;) {
    if (now().kind == TokenKind::kPrintEnd || now().kind == TokenKind::kBlockEnd || is_operator(")") ||
        (!end_name.empty() && is_name(end_name)))
      break;
    items.push_back(expression(with_condition));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !parenthesized) unexpected("an expression");
  return make(ExpressionKind::kTuple, line, std::move(items));
}

ExpressionPtr Parser::postfix(ExpressionPtr left) {
  for (;;) {
    if (is_operator(".") || is_operator("[")) left = subscript(std::move(left));
    else if (is_operator("(")) left = call(std::move(left));
    else return left;
  }
}

ExpressionPtr Parser::filters_and_tests(ExpressionPtr left) {
  for (;;) {
    if (is_operator("|")) left = filter(std::move(left));
    else if (is_name("is")) left = test(std::move(left));
    else if (is_operator("(")) left = call(std::move(left));
    else return left;
  }
}

ExpressionPtr Parser::subscript(ExpressionPtr left) {
  const int line = now().line;
  if (skip_operator(".")) {
    if (now().kind == TokenKind::kName) {
      auto out = make(ExpressionKind::kAttribute, line, parts_of(std::move(left)));
      out->name = expect_name();
      return out;
    }
    if (now().kind != TokenKind::kInteger) unexpected("a name or a number");
    return make(ExpressionKind::kItem, line, parts_of(std::move(left), primary()));
  }
  expect_operator("[");
  if (is_operator("]")) unexpected("a subscript");
  ExpressionPtr first = is_operator(":") ? nullptr : expression();
  if (!is_operator(":")) {
    if (is_operator(",")) {
      auto items = parts_of(std::move(first));
      while (skip_operator(",")) items.push_back(expression());
      first = make(ExpressionKind::kTuple, line, std::move(items));
    }
    expect_operator("]");
    return make(ExpressionKind::kItem, line, parts_of(std::move(left), std::move(first)));
  }
  auto parts = parts_of(std::move(left), std::move(first));
  for (int i = 0; i < 2; ++i) {
    const bool present = skip_operator(":") && !is_operator(":") && !is_operator("]");
    parts.push_back(present ? expression() : nullptr);
  }
  expect_operator("]");
  return make(ExpressionKind::kSlice, line, std::move(parts));
}

CallArguments Parser::call_arguments() {
  CallArguments out;
  expect_operator("(");
  for (bool first = true; !is_operator(")"); first = false) {
    if (!first) expect_operator(",");
    if (is_operator(")")) break;
    if (out.double_star) unexpected();
    if (is_operator("*") && !out.star) {
      advance();
      out.star = expression();
    } else if (skip_operator("**")) {
      out.double_star = expression();
    } else if (now().kind == TokenKind::kName && ahead().kind == TokenKind::kOperator && ahead().text == "=") {
      std::string name = expect_name();
      advance();
      out.named.emplace_back(std::move(name), expression());
    } else {
      if (out.star || !out.named.empty()) unexpected("a named argument");
      out.positional.push_back(expression());
    }
  }
  expect_operator(")");
  return out;
}

ExpressionPtr Parser::call(ExpressionPtr left) {
  auto out = make(ExpressionKind::kCall, now().line, parts_of(std::move(left)));
  out->arguments = call_arguments();
  grow(*out);
  return out;
}

std::string Parser::dotted_name() {
  std::string name = expect_name();
  while (skip_operator(".")) name += "." + expect_name();
  return name;
}

// One filter, without its '|' when the subject is a block.
ExpressionPtr Parser::filter(ExpressionPtr subject) {
  skip_operator("|");
  auto out = make(ExpressionKind::kFilter, now().line, parts_of(std::move(subject)));
  out->name = dotted_name();
  if (is_operator("(")) out->arguments = call_arguments();
  grow(*out);
  return out;
}

ExpressionPtr Parser::test(ExpressionPtr subject) {
  const int line = now().line;
  advance();
  const bool negated = skip_name("not");
  auto out = make(ExpressionKind::kTest, line, parts_of(std::move(subject)));
  out->name = dotted_name();
  const bool literal = now().kind == TokenKind::kName || now().kind == TokenKind::kString || now().kind == TokenKind::kInteger ||
                       now().kind == TokenKind::kFloat || is_operator("[") || is_operator("{");
  if (is_operator("(")) {
    out->arguments = call_arguments();
  } else if (literal && !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) throw Problem{"tests can't be chained with 'is'", line};
    out->arguments.positional.push_back(postfix(primary()));
  }
  grow(*out);
  return negated ? make(ExpressionKind::kNot, line, parts_of(std::move(out))) : std::move(out);
}

}  // namespace tq::jinja
