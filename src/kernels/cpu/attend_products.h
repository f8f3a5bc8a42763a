// Attention of many tokens in the precision of training, as float products (kernels/float_products.h): for processors with tiles.
#pragma once

#include "kernels/cpu/attend_part.h"
#include "kernels/cpu/attention.h"

namespace tq::cpu {

void attend_by_products(const Part& args, const FloatKernels& kernels, FloatProducts& products, AttendWorkspace& workspace);

}  // namespace tq::cpu
