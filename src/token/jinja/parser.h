// The parser: recursive descent, with the grammar (and the odd corners) of the reference implementation.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "token/jinja/ast.h"
#include "token/jinja/lexer.h"

namespace tq::jinja {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Body template_body();

 private:
  struct Level;  // counts the nesting

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void advance() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool is_operator(std::string_view text) const { return now().kind == TokenKind::kOperator && now().text == text; }
  bool is_name(std::string_view text) const { return now().kind == TokenKind::kName && now().text == text; }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name();
  [[noreturn]] void unexpected(std::string_view wanted = "") const;
  ExpressionPtr make(ExpressionKind kind, int line, std::vector<ExpressionPtr> parts = {}) const;
  void grow(Expression& expression) const;  // renews the height
  template <typename... Parts>
  static std::vector<ExpressionPtr> parts_of(Parts... parts) {
    std::vector<ExpressionPtr> out;
    (out.push_back(std::move(parts)), ...);
    return out;
  }

  // operators and operands (parse_expression.cpp)
  ExpressionPtr expression(bool with_condition = true);
  ExpressionPtr conditional();
  ExpressionPtr either();
  ExpressionPtr both();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concat();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filter = true);
  ExpressionPtr primary();
  ExpressionPtr name_or_constant();
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr tuple(bool with_condition, bool parenthesized, std::string_view end_name = "");

  // what follows an operand (parse_postfix.cpp)
  ExpressionPtr postfix(ExpressionPtr left);
  ExpressionPtr filters_and_tests(ExpressionPtr left);
  ExpressionPtr subscript(ExpressionPtr left);
  ExpressionPtr call(ExpressionPtr left);
  ExpressionPtr filter(ExpressionPtr subject);
  ExpressionPtr test(ExpressionPtr subject);
  CallArguments call_arguments();
  std::string dotted_name();

  // statements (parse_statement.cpp)
  Body body(std::initializer_list<std::string_view> ends);
  Statement statement();
  Statement if_statement(int line);
  Statement for_statement(int line);
  Statement set_statement(int line);
  Statement macro_statement(int line);
  Statement call_statement(int line);
  Statement filter_statement(int line);
  Statement with_statement(int line);
  Statement block(StatementKind kind, int line, std::string_view end);
  void end_block(std::string_view end);
  void parameters(Macro& macro);
  Target target(bool with_namespace, std::string_view end_name);
  Target one_target(bool with_namespace);
  std::unique_ptr<Macro> macro_with_body(std::string name, std::string_view end, bool with_parameters);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  Macro* macro_ = nullptr;  // the innermost one around the place
};

}  // namespace tq::jinja
