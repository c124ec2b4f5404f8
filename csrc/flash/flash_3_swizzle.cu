// Rung 3: fragments out of shared memory the fast way. ldmatrix loads four 8 x 8 tiles in one instruction,
// from tiles that are swizzled instead of padded (swizzled_tiles.cuh), so that it never waits for a bank; and
// a warp owns 32 rows of Q, so that each fragment of K and V, once loaded, goes into two products. The rest
// is rung 2. Q, O are bf16 [B*H, T, D]; K, V are bf16 [B*H/group, T, D]; L, fp32 [B*H, T]. Forward only.
//     nvcc -std=c++17 -arch=sm_80 -shared -Xcompiler -fPIC -DHEAD_WIDTH=64 flash_3_swizzle.cu -o rung.so
#include <cuda_runtime.h>
#include <math.h>
#include "swizzled_tiles.cuh"

#ifndef M_TILES
#define M_TILES 2
#endif
constexpr int M = M_TILES;  // a warp owns M tiles of 16 rows
constexpr int WARPS = 4, THREADS = 32 * WARPS, Br = 16 * M * WARPS, Bc = 64;
constexpr int SHARED_BYTES = (Br + 2 * Bc) * D * sizeof(bf16);

// Rows first, first + 1, ... of a [T, D] matrix into a tile, 16 bytes at a time; zeros past T.
template <int ROWS>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* matrix, int first, int T) {
#pragma unroll
  for (int i = threadIdx.x; i < ROWS * D / 8; i += THREADS) {
    const int r = i / (D / 8), c = i % (D / 8);
    uint4 eight = make_uint4(0, 0, 0, 0);
    if (first + r < T) eight = *reinterpret_cast<const uint4*>(matrix + (size_t)(first + r) * D + 8 * c);
    *reinterpret_cast<uint4*>(piece(tile, r, c)) = eight;
  }
}

__global__ void __launch_bounds__(THREADS, 2)
    flash_forward_kernel(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, int T, int group,
                         float scale, bool causal) {
  extern __shared__ uint4 smem[];
  bf16 *Q = reinterpret_cast<bf16*>(smem), *K = Q + Br * D, *V = K + Bc * D;
  name_shared("Q", Q, Br * D);
  name_shared("K", K, Bc * D);
  name_shared("V", V, Bc * D);
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, head = blockIdx.y;
  const int q0 = (gridDim.x - 1 - blockIdx.x) * Br;
  const int row0 = q0 + 16 * M * warp;  // mine are the rows row0 + 16 i + g + 8 half
  const size_t at = (size_t)head * T * D, kv = (size_t)(head / group) * T * D;

  load_tile<Br>(Q, q + at, q0, T);
  float O[M][D / 8][4] = {}, m[M][2], l[M][2] = {};
  for (auto& both : m) both[0] = both[1] = -INFINITY;

  const int end = causal ? min(T, q0 + Br) : T;
  for (int k0 = 0; k0 < end; k0 += Bc) {
    __syncthreads();  // everyone is done with the last K and V
    load_tile<Bc>(K, k + kv, k0, T);
    load_tile<Bc>(V, v + kv, k0, T);
    __syncthreads();  // the tiles are complete

    float S[M][Bc / 8][4] = {};
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
      uint32_t a[M][4];
#pragma unroll
      for (int i = 0; i < M; i++) load_a(a[i], Q, 16 * (M * warp + i), d);
#pragma unroll
      for (int n = 0; n < Bc / 16; n++) {
        uint32_t b[4];
        load_b(b, K, 16 * n, d);
        multiply(S, 2 * n, a, b);
      }
    }

#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {  // online softmax of one row, as in rung 2
        const int row = row0 + 16 * i + g + 8 * half;
        float m_new = m[i][half], sum = 0;
#pragma unroll
        for (int n = 0; n < Bc / 8; n++)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) {
            const int col = k0 + 8 * n + 2 * t + e % 2;
            const bool keep = col < T && (!causal || col <= row);
            S[i][n][e] = keep ? scale * S[i][n][e] : -INFINITY;
            m_new = fmaxf(m_new, S[i][n][e]);
          }
        m_new = row_max(m_new);
        const float alpha = __expf(m[i][half] - m_new);
#pragma unroll
        for (int n = 0; n < Bc / 8; n++)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) sum += S[i][n][e] = __expf(S[i][n][e] - m_new);
        l[i][half] = l[i][half] * alpha + row_sum(sum);
        m[i][half] = m_new;
#pragma unroll
        for (int n = 0; n < D / 8; n++) O[i][n][2 * half] *= alpha, O[i][n][2 * half + 1] *= alpha;
      }

#pragma unroll
    for (int j = 0; j < Bc / 16; j++) {  // O += P V, 16 keys at a time
      uint32_t P[M][4];
#pragma unroll
      for (int i = 0; i < M; i++) as_fragment_a(P[i], S[i][2 * j], S[i][2 * j + 1]);
      multiply_rows(O, P, V, 16 * j);
    }
  }

#pragma unroll
  for (int i = 0; i < M; i++) {
    const float inverse[2] = {1.f / l[i][0], 1.f / l[i][1]};
    store_rows(o + at, O[i], row0 + 16 * i, T, inverse);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row0 + 16 * i + g + 8 * half;
      if (t == 0 && row < T) lse[(size_t)head * T + row] = m[i][half] + logf(l[i][half]);
    }
  }
}

extern "C" int flash_forward(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, int heads,
                             int T, int group, float scale, bool causal, cudaStream_t stream) {
  const dim3 grid((T + Br - 1) / Br, heads);
  cudaFuncSetAttribute(flash_forward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  flash_forward_kernel<<<grid, THREADS, SHARED_BYTES, stream>>>(q, k, v, o, lse, T, group, scale, causal);
  return cudaGetLastError();
}
