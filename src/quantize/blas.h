#pragma once

#include "base/blas.h"
