// The sum of n numbers: each block adds its 256 in a tree and leaves one partial sum.
// New to vector_add.cu: threads of a block share memory, and a barrier tells them when to look at it.
// Leave out one __syncthreads() to meet the classic race.
#include <cuda_runtime.h>

constexpr int THREADS = 256;

__global__ void reduction_kernel(const float* x, float* partial, int n) {
  __shared__ float sums[THREADS];
  const int t = threadIdx.x, i = blockIdx.x * THREADS + t;
  sums[t] = i < n ? x[i] : 0.f;
  // EXERCISE c.2 reduction
  __syncthreads();  // all 256 numbers are there
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (t < half) sums[t] += sums[t + half];  // the lower half reads what the upper half left
    __syncthreads();  // outside the if: every thread must come
  }
  // END EXERCISE c.2
  if (t == 0) partial[blockIdx.x] = sums[0];
}

extern "C" int reduction(const float* x, float* partial, int n, cudaStream_t stream) {
  reduction_kernel<<<(n + THREADS - 1) / THREADS, THREADS, 0, stream>>>(x, partial, n);
  return cudaGetLastError();
}
