// As much of torch's own header as the operator uses: half the time of compiling it goes into the rest.
#pragma once
#include <ATen/ATen.h>
#include <torch/csrc/utils/pybind.h>
