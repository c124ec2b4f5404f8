// Rung 2: tensor cores, bf16 in, sums in fp32. A warp owns 16 rows of Q and multiplies 16 x 16 by 16 x 8
// tiles, one instruction each (tensor_core.cuh draws which lane holds what). The scores of a tile come out as
// fragments C, become P, and go into P V as fragments A: P takes no shared memory and no barrier, and a row's
// maximum and sum two shuffles. The fragments of K and V are still read number by number. Q, O are bf16 [B*H,
// T, D]; K, V are bf16 [B*H/group, T, D]; L, fp32 [B*H, T]. Forward only.
//     nvcc -std=c++17 -arch=sm_80 -shared -Xcompiler -fPIC -DHEAD_WIDTH=64 flash_2_mma.cu -o rung.so
#include <cuda_runtime.h>
#include <math.h>
#include "fragments.cuh"

constexpr int WARPS = 4, THREADS = 32 * WARPS, Br = 16 * WARPS, Bc = 64;
constexpr int STRIDE = D + 8;  // 4 words more than D: the 32 lanes of a fragment of K read 32 banks

// Two neighbouring numbers of a row, or of a column, as one register of a fragment.
__device__ __forceinline__ uint32_t row_pair(const bf16* at) {
  return *reinterpret_cast<const uint32_t*>(at);
}
__device__ __forceinline__ uint32_t column_pair(const bf16* at) {
  return __bfloat16_as_ushort(at[0]) | (uint32_t)__bfloat16_as_ushort(at[STRIDE]) << 16;
}

// Rows first, first + 1, ... of a [T, D] matrix into shared memory, 16 bytes at a time; zeros past T.
__device__ __forceinline__ void load_tile(bf16 (&tile)[Bc][STRIDE], const bf16* matrix, int first, int T) {
#pragma unroll
  for (int i = threadIdx.x; i < Bc * D / 8; i += THREADS) {
    const int r = i / (D / 8), d = i % (D / 8) * 8;
    uint4 eight = make_uint4(0, 0, 0, 0);
    if (first + r < T) eight = *reinterpret_cast<const uint4*>(matrix + (size_t)(first + r) * D + d);
    *reinterpret_cast<uint4*>(&tile[r][d]) = eight;
  }
}

__global__ void __launch_bounds__(THREADS)
    flash_forward_kernel(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, int T, int group,
                         float scale, bool causal) {
  __shared__ __align__(16) bf16 K[Bc][STRIDE], V[Bc][STRIDE];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, head = blockIdx.y;
  const int q0 = (gridDim.x - 1 - blockIdx.x) * Br;  // causal: the longest rows begin first
  const int row0 = q0 + 16 * warp;                   // my rows: row0 + g and row0 + g + 8
  const size_t at = (size_t)head * T * D, kv = (size_t)(head / group) * T * D;

  uint32_t Q[D / 16][4];  // the fragments A of my warp's 16 rows, for the whole kernel
#pragma unroll
  for (int d = 0; d < D / 16; d++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = row0 + g + i % 2 * 8;
      Q[d][i] = row < T ? row_pair(q + at + (size_t)row * D + 16 * d + 2 * t + i / 2 * 8) : 0;
    }
  float O[D / 8][4] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {};

  const int end = causal ? min(T, q0 + Br) : T;
  for (int k0 = 0; k0 < end; k0 += Bc) {
    __syncthreads();  // everyone is done with the last K and V
    load_tile(K, k + kv, k0, T);
    load_tile(V, v + kv, k0, T);
    __syncthreads();  // the tiles are complete

    float S[Bc / 8][4] = {};  // S[n]: the 16 x 8 scores of the keys k0 + 8 n .. k0 + 8 n + 7
#pragma unroll
    for (int n = 0; n < Bc / 8; n++)
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        // EXERCISE c.8 a fragment's lane
        const bf16* key = &K[8 * n + g][16 * d + 2 * t];  // B[k][n] is K[n][k]: k runs along a row of K
        mma_m16n8k16(S[n], Q[d], row_pair(key), row_pair(key + 8));
        // END EXERCISE c.8
      }

#pragma unroll
    for (int half = 0; half < 2; half++) {  // online softmax of row g, then of row g + 8
      const int row = row0 + g + 8 * half;
      float m_new = m[half], sum = 0;
#pragma unroll
      for (int n = 0; n < Bc / 8; n++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          const int col = k0 + 8 * n + 2 * t + i % 2;
          const bool keep = col < T && (!causal || col <= row);
          S[n][i] = keep ? scale * S[n][i] : -INFINITY;
          m_new = fmaxf(m_new, S[n][i]);
        }
      m_new = row_max(m_new);
      const float alpha = __expf(m[half] - m_new);
#pragma unroll
      for (int n = 0; n < Bc / 8; n++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) sum += S[n][i] = __expf(S[n][i] - m_new);
      l[half] = l[half] * alpha + row_sum(sum);
      m[half] = m_new;
#pragma unroll
      for (int n = 0; n < D / 8; n++) O[n][2 * half] *= alpha, O[n][2 * half + 1] *= alpha;
    }

#pragma unroll
    for (int j = 0; j < Bc / 16; j++) {  // O += P V, 16 keys at a time: two tiles C of S are one tile A of P
      uint32_t P[4];
      as_fragment_a(P, S[2 * j], S[2 * j + 1]);
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        const bf16* value = &V[16 * j + 2 * t][8 * n + g];  // B[k][n] is V[k][n]: k runs down a column of V
        mma_m16n8k16(O[n], P, column_pair(value), column_pair(value + 8 * STRIDE));
      }
    }
  }

  const float inverse[2] = {1.f / l[0], 1.f / l[1]};
  store_rows(o + at, O, row0, T, inverse);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + g + 8 * half;
    if (t == 0 && row < T) lse[(size_t)head * T + row] = m[half] + logf(l[half]);
  }
}

extern "C" int flash_forward(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, int heads,
                             int T, int group, float scale, bool causal, cudaStream_t stream) {
  const dim3 grid((T + Br - 1) / Br, heads);
  flash_forward_kernel<<<grid, THREADS, 0, stream>>>(q, k, v, o, lse, T, group, scale, causal);
  return cudaGetLastError();
}
