#include <algorithm>
#include <charconv>

#include "token/jinja/parser.h"

namespace tq::jinja {
namespace {

constexpr int kMaxNesting = 60;  // of parentheses, brackets and blocks

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

}  // namespace tq::jinja
