// Rung 5, the other way: each gradient is a loop like the forward one, in which no score ever leaves the
// registers. That needs two kernels. In the first a block owns queries, dS is a left matrix, dQ += dS K; in
// the second it owns keys and the scores are transposed, dV += P^T dO and dK += dS^T Q. Seven products where
// flash_5_backward.cu needs five, but no atomics and no scratch: each run gives the same bits. Q, O, dQ, dO
// are bf16 [B*H, T, D]; K, V, dK, dV bf16 [B*H/group, T, D]; L and delta fp32 [B*H, T].
//     nvcc -std=c++17 -arch=sm_80 -shared -Xcompiler -fPIC -DHEAD_WIDTH=64 flash_5_deterministic.cu -o r.so
#include <cuda_runtime.h>
#include <math.h>
#include "delta.cuh"
#include "swizzled_tiles.cuh"

constexpr int M = D > 64 ? 1 : 2;  // a warp owns M tiles of 16 rows, and keeps them in registers
constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int Br = 16 * M * WARPS, Bc = 64;  // rows that a block owns; rows of a tile that it walks over
constexpr int TILE = Bc * D, OWN = Br * D;
constexpr int SHARED_BYTES = (4 * TILE + 2 * OWN) * sizeof(bf16) + 4 * Bc * sizeof(float);

// The fragments A of my warp's 16 M rows of a tile that the block owns.
__device__ __forceinline__ void load_own(uint32_t (&own)[D / 16][M][4], bf16* tile) {
#pragma unroll
  for (int d = 0; d < D / 16; d++)
#pragma unroll
    for (int i = 0; i < M; i++) load_a(own[d][i], tile, 16 * (M * (threadIdx.x / 32) + i), d);
}

// A block owns Br rows of Q and dO, and walks over all tiles of K and V.
__global__ void __launch_bounds__(THREADS, 2)
    flash_dq_kernel(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* lse,
                    const float* delta, bf16* dq, int T, int group, float scale, bool causal) {
  extern __shared__ uint4 smem[];
  bf16 *stages = reinterpret_cast<bf16*>(smem), *Q = stages + 4 * TILE, *dO = Q + OWN;
  name_shared("K and V of stage 0", stages, 2 * TILE);
  name_shared("K and V of stage 1", stages + 2 * TILE, 2 * TILE);
  name_shared("Q", Q, OWN);
  name_shared("dO", dO, OWN);
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, head = blockIdx.y;
  const int q0 = (gridDim.x - 1 - blockIdx.x) * Br, row0 = q0 + 16 * M * warp;
  const size_t at = (size_t)head * T * D, kv = (size_t)(head / group) * T * D;
  auto begin_stage = [&](int k0) {
    bf16* K = stages + k0 / Bc % 2 * 2 * TILE;
    begin_copy<Bc, THREADS>(K, k + kv, k0, T);
    begin_copy<Bc, THREADS>(K + TILE, v + kv, k0, T);
  };

  begin_copy<Br, THREADS>(Q, q + at, q0, T);
  begin_copy<Br, THREADS>(dO, d_o + at, q0, T);
  cp_async_commit();
  begin_stage(0);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();  // Q and dO are complete
  uint32_t own_q[D / 16][M][4], own_do[D / 16][M][4];
  load_own(own_q, Q);
  load_own(own_do, dO);
  float dQ[M][D / 8][4] = {}, L[M][2], Delta[M][2];  // of my rows row0 + 16 i + g + 8 half
#pragma unroll
  for (int i = 0; i < M; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row0 + 16 * i + g + 8 * half;
      L[i][half] = row < T ? lse[(size_t)head * T + row] * LOG2_E : 0.f;
      Delta[i][half] = row < T ? delta[(size_t)head * T + row] : 0.f;
    }

  const int end = causal ? min(T, q0 + Br) : T;
  for (int k0 = 0; k0 < end; k0 += Bc) {
    cp_async_wait_all();
    __syncthreads();  // this K and V are complete, and everyone is done with the last ones
    if (const int next = k0 + Bc; next < end) begin_stage(next);
    cp_async_commit();
    bf16 *K = stages + k0 / Bc % 2 * 2 * TILE, *V = K + TILE;
#pragma unroll 2
    for (int j = 0; j < Bc; j += 16) {                     // 16 keys at a time
      if (causal && k0 + j > row0 + 16 * M - 1) continue;  // my warp's rows see none of them
      float S[M][2][4] = {}, dP[M][2][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        uint32_t b[4];
        load_b(b, K, j, d);
        multiply(S, 0, own_q[d], b);
        load_b(b, V, j, d);
        multiply(dP, 0, own_do[d], b);
      }
      uint32_t dS[M][4];
#pragma unroll
      for (int i = 0; i < M; i++) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
          const int half = e / 2 % 2, row = row0 + 16 * i + g + 8 * half;
          const int col = k0 + j + e / 4 * 8 + 2 * t + e % 2, visible = causal ? min(T, row + 1) : T;
          float& s = S[i][e / 4][e % 4];
          const float p = fast_exp2(s * (scale * LOG2_E) - L[i][half]);
          const float ds = p * (dP[i][e / 4][e % 4] - Delta[i][half]);  // but for the scale
          s = col < visible ? ds : 0.f;
        }
        as_fragment_a(dS[i], S[i][0], S[i][1]);
      }
      multiply_rows(dQ, dS, K, j);
    }
  }
#pragma unroll
  for (int i = 0; i < M; i++) store_rows(dq + at, dQ[i], row0 + 16 * i, T, {scale, scale});
}

// A block owns Br rows of K and V, and walks over all tiles of Q and dO of all heads that use them.
__global__ void __launch_bounds__(THREADS, 2)
    flash_dk_dv_kernel(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* lse,
                       const float* delta, bf16* dk, bf16* dv, int T, int group, float scale, bool causal) {
  extern __shared__ uint4 smem[];
  bf16 *stages = reinterpret_cast<bf16*>(smem), *K = stages + 4 * TILE, *V = K + OWN;
  float* rows = reinterpret_cast<float*>(V + OWN);  // L and delta of the two stages
  name_shared("Q and dO of stage 0", stages, 2 * TILE);
  name_shared("Q and dO of stage 1", stages + 2 * TILE, 2 * TILE);
  name_shared("K", K, OWN);
  name_shared("V", V, OWN);
  name_shared("L and delta", rows, 4 * Bc);
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, kv_head = blockIdx.y;
  const int k0 = blockIdx.x * Br, row0 = k0 + 16 * M * warp;
  const size_t kv = (size_t)kv_head * T * D;
  const int first = causal ? k0 : 0;  // queries before k0 do not see these keys
  const int tiles = (T - first + Bc - 1) / Bc, steps = group * tiles;
  auto begin_stage = [&](int step) {
    const int head = kv_head * group + step / tiles, q0 = first + step % tiles * Bc, r = threadIdx.x % Bc;
    bf16* Q = stages + step % 2 * 2 * TILE;
    begin_copy<Bc, THREADS>(Q, q + (size_t)head * T * D, q0, T);
    begin_copy<Bc, THREADS>(Q + TILE, d_o + (size_t)head * T * D, q0, T);
    const float* from = (threadIdx.x < Bc ? lse : delta) + (size_t)head * T + q0 + r;
    cp_async_4(rows + step % 2 * 2 * Bc + threadIdx.x, from, q0 + r < T);
  };
  static_assert(THREADS == 2 * Bc, "a thread copies one number of L or delta");

  begin_copy<Br, THREADS>(K, k + kv, k0, T);
  begin_copy<Br, THREADS>(V, v + kv, k0, T);
  cp_async_commit();
  begin_stage(0);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();  // K and V are complete
  uint32_t own_k[D / 16][M][4], own_v[D / 16][M][4];
  load_own(own_k, K);
  load_own(own_v, V);
  float dK[M][D / 8][4] = {}, dV[M][D / 8][4] = {};

  for (int step = 0; step < steps; step++) {
    cp_async_wait_all();
    __syncthreads();  // this Q and dO are complete, and everyone is done with the last ones
    if (step + 1 < steps) begin_stage(step + 1);
    cp_async_commit();
    bf16 *Q = stages + step % 2 * 2 * TILE, *dO = Q + TILE;
    const float *L = rows + step % 2 * 2 * Bc, *Delta = L + Bc;
    const int q0 = first + step % tiles * Bc;
#pragma unroll
    for (int j = 0; j < Bc; j += 16) {             // 16 queries at a time; rows of the scores are keys
      if (causal && q0 + j + 15 < row0) continue;  // they see none of my warp's keys
      float S[M][2][4] = {}, dP[M][2][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        uint32_t b[4];
        load_b(b, Q, j, d);
        multiply(S, 0, own_k[d], b);
        load_b(b, dO, j, d);
        multiply(dP, 0, own_v[d], b);
      }
#pragma unroll
      for (int e = 0; e < 8; e++) {
        const int r = j + e / 4 * 8 + 2 * t + e % 2;  // my query; past T, Q = dO = L = delta = 0: then dS = 0
        const float l = L[r] * LOG2_E, d = Delta[r];
#pragma unroll
        for (int i = 0; i < M; i++) {
          float &p = S[i][e / 4][e % 4], &ds = dP[i][e / 4][e % 4];
          p = fast_exp2(p * (scale * LOG2_E) - l);
          if (causal && q0 + r < row0 + 16 * i + g + e / 2 % 2 * 8) p = 0;
          ds = p * (ds - d);  // but for the scale
        }
      }
      uint32_t P[M][4], dS[M][4];
#pragma unroll
      for (int i = 0; i < M; i++) {
        as_fragment_a(P[i], S[i][0], S[i][1]);
        as_fragment_a(dS[i], dP[i][0], dP[i][1]);
      }
      multiply_rows(dV, P, dO, j);
      multiply_rows(dK, dS, Q, j);
    }
  }
#pragma unroll
  for (int i = 0; i < M; i++) {
    store_rows(dk + kv, dK[i], row0 + 16 * i, T, {scale, scale});
    store_rows(dv + kv, dV[i], row0 + 16 * i, T, {1.f, 1.f});
  }
}

extern "C" int flash_backward(const bf16* q, const bf16* k, const bf16* v, const bf16* o, const float* lse,
                              const bf16* d_o, float* delta, bf16* dq, bf16* dk, bf16* dv, int heads, int T,
                              int group, float scale, bool causal, cudaStream_t stream) {
  const int rows = heads * T, blocks = (T + Br - 1) / Br;
  const dim3 queries(blocks, heads), keys(blocks, heads / group);
  cudaFuncSetAttribute(flash_dq_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  cudaFuncSetAttribute(flash_dk_dv_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  flash_delta_kernel<<<(rows + 3) / 4, dim3(32, 4), 0, stream>>>(o, d_o, delta, rows);
  flash_dq_kernel<<<queries, THREADS, SHARED_BYTES, stream>>>(q, k, v, d_o, lse, delta, dq, T, group, scale,
                                                              causal);
  flash_dk_dv_kernel<<<keys, THREADS, SHARED_BYTES, stream>>>(q, k, v, d_o, lse, delta, dk, dv, T, group,
                                                              scale, causal);
  return cudaGetLastError();
}
