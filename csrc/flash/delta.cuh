// What every backward pass computes first: delta[row] = sum over d of dO[row][d] * O[row][d]. A warp owns a
// row.
#pragma once
#include "fragments.cuh"

__global__ void flash_delta_kernel(const bf16* o, const bf16* d_o, float* delta, int rows) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;  // the whole warp leaves together
  const __nv_bfloat162* a = reinterpret_cast<const __nv_bfloat162*>(o + (size_t)row * D);
  const __nv_bfloat162* b = reinterpret_cast<const __nv_bfloat162*>(d_o + (size_t)row * D);
  float sum = 0;
  for (int i = lane; i < D / 2; i += 32) {
    const __nv_bfloat162 x = a[i], y = b[i];
    sum += __bfloat162float(x.x) * __bfloat162float(y.x) + __bfloat162float(x.y) * __bfloat162float(y.y);
  }
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, bit);
  if (lane == 0) delta[row] = sum;
}
