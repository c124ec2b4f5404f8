// Rung 4: keep the tensor cores busy. cp.async copies the next K and V into a second pair of buffers while
// this pair is computed; scale and log2(e) are folded into one multiply-add before exp2; a row's sum is added
// up over its 4 lanes once, at the end; only tiles on the diagonal and at the end are masked, and a warp
// skips those it cannot see. Q, O are bf16 [B*H, T, D]; K, V are bf16 [B*H/group, T, D]; L, fp32 [B*H, T].
// Forward only.
//     nvcc -std=c++17 -arch=sm_80 -shared -Xcompiler -fPIC -DHEAD_WIDTH=64 flash_4_pipeline.cu -o rung.so
#include <cuda_runtime.h>
#include <math.h>
#include "swizzled_tiles.cuh"

#ifndef M_TILES
#define M_TILES 2
#endif
#ifndef KEY_TILE
#define KEY_TILE 64
#endif
constexpr int M = M_TILES;  // a warp owns M tiles of 16 rows
constexpr int WARPS = 4, THREADS = 32 * WARPS, Br = 16 * M * WARPS, Bc = KEY_TILE, TILE = Bc * D;
constexpr int SHARED_BYTES = (Br * D + 4 * TILE) * sizeof(bf16);  // Q, and two stages of K and V

__global__ void __launch_bounds__(THREADS, 2)
    flash_forward_kernel(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, int T, int group,
                         float scale, bool causal) {
  extern __shared__ uint4 smem[];
  bf16 *KV = reinterpret_cast<bf16*>(smem), *Q = KV + 4 * TILE;
  name_shared("Q", Q, Br * D);
  name_shared("K and V of stage 0", KV, 2 * TILE);
  name_shared("K and V of stage 1", KV + 2 * TILE, 2 * TILE);
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, head = blockIdx.y;
  const int q0 = (gridDim.x - 1 - blockIdx.x) * Br;  // causal: the longest rows begin first
  const int row0 = q0 + 16 * M * warp;               // mine are the rows row0 + 16 i + g + 8 half
  const size_t at = (size_t)head * T * D, kv = (size_t)(head / group) * T * D;
  auto stage = [&](int k0) { return KV + k0 / Bc % 2 * 2 * TILE; };
  auto begin_stage = [&](int k0) {
    begin_copy<Bc, THREADS>(stage(k0), k + kv, k0, T);
    begin_copy<Bc, THREADS>(stage(k0) + TILE, v + kv, k0, T);
  };

  begin_copy<Br, THREADS>(Q, q + at, q0, T);
  begin_stage(0);
  cp_async_commit();
  float O[M][D / 8][4] = {}, m[M][2], l[M][2] = {};  // l: the sum over my columns only, until the end
  for (auto& both : m) both[0] = both[1] = -INFINITY;
  const float unit = scale * LOG2_E;  // exp(scale s) = 2^(unit s)

  const int end = causal ? min(T, q0 + Br) : T;
  for (int k0 = 0; k0 < end; k0 += Bc) {
    // EXERCISE c.11 the order of a pipeline
    cp_async_wait<0>();
    __syncthreads();  // this K and V are complete, and everyone is done with the last ones: fill their place
    if (k0 + Bc < end) begin_stage(k0 + Bc);
    cp_async_commit();
    // END EXERCISE c.11
    bf16 *K = stage(k0), *V = K + TILE;
    if (causal && k0 >= row0 + 16 * M) continue;  // my warp's rows see none of these keys

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

    if (k0 + Bc > T || (causal && k0 + Bc - 1 > row0)) {  // the same answer for the whole warp
#pragma unroll
      for (int i = 0; i < M; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int row = row0 + 16 * i + g + e / 2 * 8, visible = causal ? min(T, row + 1) : T;
#pragma unroll
          for (int n = 0; n < Bc / 8; n++)
            if (k0 + 8 * n + 2 * t + e % 2 >= visible) S[i][n][e] = -INFINITY;
        }
    }

#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {  // online softmax; m is the largest unscaled score
        // EXERCISE c.12 online softmax in exp2
        float m_new = m[i][half];
#pragma unroll
        for (int n = 0; n < Bc / 8; n++)
          m_new = fmaxf(m_new, fmaxf(S[i][n][2 * half], S[i][n][2 * half + 1]));
        m_new = row_max(m_new);
        const float shift = m_new * unit, alpha = fast_exp2(m[i][half] * unit - shift);
        m[i][half] = m_new;
        l[i][half] *= alpha;
#pragma unroll
        for (int n = 0; n < D / 8; n++) O[i][n][2 * half] *= alpha, O[i][n][2 * half + 1] *= alpha;
#pragma unroll
        for (int n = 0; n < Bc / 8; n++)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++)
            l[i][half] += S[i][n][e] = fast_exp2(S[i][n][e] * unit - shift);  // one multiply-add, one exp2
        // END EXERCISE c.12
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
    const float sum[2] = {row_sum(l[i][0]), row_sum(l[i][1])}, inverse[2] = {1.f / sum[0], 1.f / sum[1]};
    store_rows(o + at, O[i], row0 + 16 * i, T, inverse);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row0 + 16 * i + g + 8 * half;
      if (t == 0 && row < T) lse[(size_t)head * T + row] = m[i][half] * scale + logf(sum[half]);
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
