// Empty: atomicAdd is in ATen/cuda/CUDAContext.h beside this folder.
