#include "token/jinja/runtime.h"

namespace tq::jinja {

// Everything is still held here while the variables go, so no destructor runs through a chain of scopes or namespaces.
Runtime::~Runtime() {
  for (const auto& scope : scopes_) scope->variables.clear();
  for (const auto& space : namespaces_) space->attributes.clear();
}

Value Runtime::make_namespace(std::vector<std::pair<std::string, Value>> attributes) {
  allocate(64 + attributes.size() * sizeof(attributes[0]));
  namespaces_.push_back(std::make_shared<Namespace>(Namespace{std::move(attributes)}));
  return namespaces_.back();
}

void Runtime::keep(const ScopePtr& scope) {
  for (ScopePtr at = scope; at && !at->kept; at = at->parent) {
    allocate(128);
    at->kept = true;
    scopes_.push_back(at);
  }
}

}  // namespace tq::jinja
