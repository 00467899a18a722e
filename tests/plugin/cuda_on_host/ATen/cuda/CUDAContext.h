// Stands in for CUDA where BasicSR's DCNv2 is compiled for the host: a grid of one block of one thread, so that the
// kernels' own loops cover everything.
#pragma once
#include <ATen/ATen.h>

#define __global__
#define __device__

struct Dim3 {
  int x, y, z;
};
constexpr Dim3 blockIdx{0, 0, 0}, threadIdx{0, 0, 0}, blockDim{1, 1, 1}, gridDim{1, 1, 1};

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

template <typename T>
void atomicAdd(T* sum, T value) {
  *sum += value;
}
