// The instructions that CUDA C++ has no words for, each a function of one line of PTX. All PTX of this folder
// is here; the emulator has the same functions in C++. Needs sm_80 or newer. To read on: PTX ISA, mma,
// ldmatrix, cp.async.
//
// THE FRAGMENTS of mma_m16n8k16. A warp multiplies a 16 x 16 tile A by a 16 x 8 tile B and adds to a 16 x 8
// tile C. Each lane holds a few numbers of each, its fragment. Write lane = 4 g + t, g = 0 .. 7, t = 0 .. 3:
//
//   A (left)    k = 2t, 2t+1   2t+8, 2t+9      B (right)         n = g      C (sum)    n = 2t, 2t+1
//   m = g           a[0]          a[2]         k = 2t, 2t+1        b0       m = g       c[0], c[1]
//   m = g + 8       a[1]          a[3]         k = 2t+8, 2t+9      b1       m = g + 8   c[2], c[3]
//
// So lane 0 holds (0,0) (0,1) (8,0) (8,1) of C. Which lane holds which number of the upper half of C:
//
//              n = 0  1    2  3     4  5     6  7
//     m = 0    lane 0      lane 1   lane 2   lane 3       A register of A or B holds two numbers of bf16,
//     m = 1    lane 4      lane 5   lane 6   lane 7       neighbours along k, the first in its lower half.
//      ...      ...         ...      ...      ...         A number of C is fp32, a register of its own.
//     m = 7    lane 28     lane 29  lane 30  lane 31
//
// Two tiles C side by side lie in the lanes exactly as one tile A does. That is why softmax(Q K^T), computed
// as C, goes into the product with V as A and never leaves the registers.
#pragma once
#include <cuda_bf16.h>
#include <stddef.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

#ifdef __CUDA_EMULATOR__
#include "emulated_tensor_core.h"
#else

// C += A B: 2,048 multiply-adds in one instruction of a warp; products of bf16, summed in fp32.
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Load four 8 x 8 tiles of bf16 from shared memory into r[0] .. r[3]. Each lane names one row of one tile, 16
// bytes at a multiple of 16, and receives two numbers of each tile:
//
//        names                              receives in r[i], of tile i              ... of a transposed tile
//        lanes 0 .. 7     rows 0 .. 7 of tile 0       (g, 2t) and (g, 2t + 1)        (2t, g) and (2t + 1, g)
//        lanes 8 .. 15    rows 0 .. 7 of tile 1
//        lanes 16 .. 23   rows 0 .. 7 of tile 2       as a fragment wants them: one instruction in place of
//        lanes 24 .. 31   rows 0 .. 7 of tile 3       four loads, or of eight where the tile is transposed
//
// It takes one turn of shared memory for each tile if its 8 rows lie in different banks.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row)));
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

// Begin to copy 16 (or 4) bytes from global to shared memory, past the registers; zeros if not `inside`.
//
//        cp_async_16 ... cp_async_16   cp_async_commit    closes group 0
//        cp_async_16 ... cp_async_16   cp_async_commit    closes group 1
//        cp_async_wait<1>              group 0 has arrived: at most 1 group is still under way
//        cp_async_wait<0>              all groups have arrived, for this thread; for others after a barrier
__device__ __forceinline__ void cp_async_16(void* to_shared, const void* from_global, bool inside) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::
               "r"((uint32_t)__cvta_generic_to_shared(to_shared)), "l"(from_global), "r"(inside ? 16 : 0));
}
__device__ __forceinline__ void cp_async_4(void* to_shared, const void* from_global, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::
               "r"((uint32_t)__cvta_generic_to_shared(to_shared)), "l"(from_global), "r"(inside ? 4 : 0));
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;"); }
template <int NEWEST> __device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
}
__device__ __forceinline__ void cp_async_wait_all() { cp_async_wait<0>(); }

// 2 to the power x, by the special function unit: relative error about 2e-7, and 0 where x is -infinity.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// What the emulator calls `count` numbers of dynamic shared memory in its reports; here nothing.
template <class T>
__device__ __forceinline__ void name_shared(const char* name, T* begin, size_t count) {}

#endif
