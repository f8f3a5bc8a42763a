#include "base/version.h"

namespace tq {

std::string_view program_name() { return "tq " TQ_VERSION; }

}  // namespace tq
