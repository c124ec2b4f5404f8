// What rungs 2 to 5 do with fragments that stay in registers (tensor_core.cuh draws them). Lane 4 g + t
// holds, of each tile C, numbers of the rows g and g + 8: `half` 0 and 1 below. The 4 lanes of one g hold a
// row together.
#pragma once
#include "tensor_core.cuh"

#ifndef HEAD_WIDTH
#define HEAD_WIDTH 64  // one library is compiled per head width
#endif
constexpr int D = HEAD_WIDTH;
static_assert(D == 32 || D == 64 || D == 128, "the head width is 32, 64 or 128");
constexpr unsigned ALL_LANES = 0xffffffff;
constexpr float LOG2_E = 1.44269504f;

// The largest, or the sum, of the values of the 4 lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
  for (int bit = 2; bit > 0; bit /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, bit));
  return x;
}
__device__ __forceinline__ float row_sum(float x) {
  for (int bit = 2; bit > 0; bit /= 2) x += __shfl_xor_sync(ALL_LANES, x, bit);
  return x;
}

// Two floats as one register of bf16, rounded to nearest even: `first` in the lower half. One instruction.
__device__ __forceinline__ uint32_t pack(float first, float second) {
  union {
    __nv_bfloat162 numbers;
    uint32_t bits;
  } both = {__floats2bfloat162_rn(first, second)};
  return both.bits;
}

// Two tiles C side by side, 16 x 8 each, rounded to bf16: one fragment A of a 16 x 16 tile.
__device__ __forceinline__ void as_fragment_a(uint32_t (&a)[4], const float (&left)[4],
                                              const float (&right)[4]) {
  // EXERCISE c.9 a sum becomes a factor
  a[0] = pack(left[0], left[1]);
  a[1] = pack(left[2], left[3]);
  a[2] = pack(right[0], right[1]);
  a[3] = pack(right[2], right[3]);
  // END EXERCISE c.9
}

// A row of tiles C, 16 x D numbers, to the rows row0, row0 + 1, ... of a [T, D] matrix of bf16; the upper 8
// rows times factor[0], the lower 8 times factor[1].
__device__ __forceinline__ void store_rows(bf16* matrix, const float (&c)[D / 8][4], int row0, int T,
                                           const float (&factor)[2]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + g + 8 * half;
    if (row >= T) continue;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      *reinterpret_cast<uint32_t*>(matrix + (size_t)row * D + 8 * n + 2 * t) =
          pack(c[n][2 * half] * factor[half], c[n][2 * half + 1] * factor[half]);
  }
}
