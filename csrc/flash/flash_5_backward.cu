// Rung 5: the backward pass on tensor cores. A block owns Bc rows of K and V, as in rung 0, and walks over
// the tiles of Q and dO. The scores are computed transposed, S^T = K Q^T: then P^T and dS^T are, like P in
// the forward pass, left matrices that never leave the registers, and dV += P^T dO, dK += dS^T Q. dQ = dS K
// sums over keys, so over warps and blocks: dS^T goes through shared memory, each warp takes 16 queries, and
// the blocks add with atomicAdd into `sums`. Five products. The order of the additions is not fixed: the last
// bits of dQ may differ from run to run. Q, O, dQ, dO are bf16 [B*H, T, D]; K, V, dK, dV bf16 [B*H/group, T,
// D]; L, delta fp32 [B*H, T]; sums fp32, [B*H, tiles of 64 rows, 64 D].
//     nvcc -std=c++17 -arch=sm_80 -shared -Xcompiler -fPIC -DHEAD_WIDTH=64 flash_5_backward.cu -o rung.so
#include <cuda_runtime.h>
#include <math.h>
#include "delta.cuh"
#include "swizzled_tiles.cuh"

constexpr int M = D > 64 ? 1 : 2;                   // a warp owns M tiles of 16 keys
constexpr int WARPS = 8 / M, THREADS = 32 * WARPS;  // 128 keys a block: few blocks add to a row of dQ
constexpr int Bc = 16 * M * WARPS, Br = 64, TILE = Br * D, OWN = Bc * D;
constexpr int SHARED_BYTES = (4 * TILE + 2 * OWN + Bc * Br) * sizeof(bf16) + 4 * Br * sizeof(float);
constexpr int N = D * 4 / WARPS / 8;  // tiles C of dQ of a warp: 4 warps, or 4 pairs of warps, share 64 rows

// The fragment A of dS for 16 queries from 16 c and the keys r .. r + 15, out of a tile that holds dS^T.
__device__ __forceinline__ void load_a_trans(uint32_t (&a)[4], bf16* tile, int r, int c) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4_trans(a, piece<Br>(tile + r * Br, lane % 8 + lane / 16 * 8, (2 * c) ^ (lane / 8 % 2)));
}

// Which share of `sums` the register e of tile n of a warp adds to: sums is scratch, so its order is ours to
// choose, and we let the 32 lanes lie side by side. The last kernel puts the numbers where they belong.
__host__ __device__ inline size_t share(size_t tile_of_head, int warp, int n, int e) {
  return tile_of_head * TILE + ((warp * N + n) * 4 + e) * 32;
}

__global__ void __launch_bounds__(THREADS, M)
    flash_backward_kernel(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* lse,
                          const float* delta, float* sums, bf16* dk, bf16* dv, int T, int group, float scale,
                          bool causal) {
  extern __shared__ uint4 smem[];
  bf16 *stages = reinterpret_cast<bf16*>(smem), *K = stages + 4 * TILE, *V = K + OWN, *dS_tile = V + OWN;
  float* rows = reinterpret_cast<float*>(dS_tile + Bc * Br);  // L and delta of the two stages
  name_shared("Q and dO of stage 0", stages, 2 * TILE);
  name_shared("Q and dO of stage 1", stages + 2 * TILE, 2 * TILE);
  name_shared("K", K, OWN);
  name_shared("V", V, OWN);
  name_shared("dS", dS_tile, Bc * Br);
  name_shared("L and delta", rows, 4 * Br);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int kv_head = blockIdx.y, k0 = blockIdx.x * Bc, my_keys = 16 * M * warp, key0 = k0 + my_keys;
  const size_t kv = (size_t)kv_head * T * D;
  const int first = causal ? k0 : 0;  // queries before k0 do not see these keys
  const int tiles = (T - first + Br - 1) / Br, steps = group * tiles;
  auto begin_stage = [&](int step) {
    const int head = kv_head * group + step / tiles, q0 = first + step % tiles * Br, r = threadIdx.x % Br;
    bf16* Q = stages + step % 2 * 2 * TILE;
    begin_copy<Br, THREADS>(Q, q + (size_t)head * T * D, q0, T);
    begin_copy<Br, THREADS>(Q + TILE, d_o + (size_t)head * T * D, q0, T);
    if (threadIdx.x < 2 * Br)
      cp_async_4(rows + step % 2 * 2 * Br + threadIdx.x,
                 (threadIdx.x < Br ? lse : delta) + (size_t)head * T + q0 + r, q0 + r < T);
  };

  begin_copy<Bc, THREADS>(K, k + kv, k0, T);
  begin_copy<Bc, THREADS>(V, v + kv, k0, T);
  cp_async_commit();
  begin_stage(0);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();  // K and V are complete
  uint32_t own_k[D / 16][M][4], own_v[D / 16][M][4];
#pragma unroll
  for (int d = 0; d < D / 16; d++)
#pragma unroll
    for (int i = 0; i < M; i++) {
      load_a(own_k[d][i], K, my_keys + 16 * i, d);
      load_a(own_v[d][i], V, my_keys + 16 * i, d);
    }
  float dK[M][D / 8][4] = {}, dV[M][D / 8][4] = {};

  for (int step = 0; step < steps; step++) {
    cp_async_wait_all();
    __syncthreads();  // this Q and dO are complete, and everyone is done with the last ones and with dS
    if (step + 1 < steps) begin_stage(step + 1);
    cp_async_commit();
    bf16 *Q = stages + step % 2 * 2 * TILE, *dO = Q + TILE;
    const float *L = rows + step % 2 * 2 * Br, *Delta = L + Br;
    const int head = kv_head * group + step / tiles, q0 = first + step % tiles * Br;
    const bool edge = k0 + Bc > T || (causal && q0 < k0 + Bc);  // does a mask cut through this tile?
#pragma unroll 1
    for (int j = 0; j < Br; j += 16) {  // 16 queries at a time; rows of the scores are keys
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
        const float l = L[r] * LOG2_E;
#pragma unroll
        for (int i = 0; i < M; i++) {
          float& p = S[i][e / 4][e % 4];
          p = fast_exp2(p * (scale * LOG2_E) - l);
        }
      }
      if (edge) {  // keys past T too: they must add nothing to dQ
#pragma unroll
        for (int e = 0; e < 8; e++) {
          const int r = q0 + j + e / 4 * 8 + 2 * t + e % 2;
#pragma unroll
          for (int i = 0; i < M; i++) {
            const int key = key0 + 16 * i + g + e / 2 % 2 * 8;
            if (key >= T || (causal && r < key)) S[i][e / 4][e % 4] = 0;
          }
        }
      }
#pragma unroll
      for (int e = 0; e < 8; e++) {
        const float d = Delta[j + e / 4 * 8 + 2 * t + e % 2];
#pragma unroll
        for (int i = 0; i < M; i++) {
          float& ds = dP[i][e / 4][e % 4];
          ds = S[i][e / 4][e % 4] * (ds - d);  // but for the scale, which waits until the end
        }
      }
      uint32_t P[M][4], dS[M][4];
#pragma unroll
      for (int i = 0; i < M; i++) {
        as_fragment_a(P[i], S[i][0], S[i][1]);
        as_fragment_a(dS[i], dP[i][0], dP[i][1]);
#pragma unroll
        for (int e = 0; e < 4; e++) {  // my words of dS^T: row g or g + 8, left or right 8 queries
          bf16* at = piece<Br>(dS_tile, my_keys + 16 * i + g + e % 2 * 8, j / 8 + e / 2);
          *reinterpret_cast<uint32_t*>(at + 2 * t) = dS[i][e];
        }
      }
      multiply_rows(dV, P, dO, j);
      multiply_rows(dK, dS, Q, j);
    }
    __syncthreads();  // dS^T is complete

    float dQ[1][N][4] = {};
    const int columns = WARPS > 4 ? warp / 4 * (N / 2) : 0;  // ^ n below is + n
#pragma unroll
    for (int j = 0; j < Bc; j += 16) {
      uint32_t dS[1][4];
      load_a_trans(dS[0], dS_tile, j, warp % 4);
#pragma unroll
      for (int n = 0; n < N / 2; n++) {
        uint32_t b[4];
        load_b_trans(b, K, j, columns ^ n);
        multiply(dQ, 2 * n, dS, b);
      }
    }
    float* to = sums + share((size_t)head * ((T + Br - 1) / Br) + q0 / Br, warp, 0, 0) + lane;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) atomicAdd(to + share(0, 0, n, e), dQ[0][n][e]);
  }
#pragma unroll
  for (int i = 0; i < M; i++) {
    store_rows(dk + kv, dK[i], key0 + 16 * i, T, {scale, scale});
    store_rows(dv + kv, dV[i], key0 + 16 * i, T, {1.f, 1.f});
  }
}

// sums, times the scale and rounded, to dQ: a thread takes two neighbours of a row.
__global__ void flash_round_kernel(const float* sums, bf16* dq, int T, int tiles, float scale, size_t pairs) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= pairs) return;
  const int lane = i % 32, half = i / 32 % 2, n = i / 64 % N, warp = i / (64 * N) % WARPS;
  const size_t tile = i / (TILE / 2), head = tile / tiles;
  const int row = tile % tiles * Br + 16 * (warp % 4) + lane / 4 + 8 * half;
  const int column = 8 * (warp / 4 * N + n) + 2 * (lane % 4);
  if (row >= T) return;
  const float first = sums[share(tile, warp, n, 2 * half) + lane];
  const float second = sums[share(tile, warp, n, 2 * half + 1) + lane];
  *reinterpret_cast<uint32_t*>(dq + (head * T + row) * D + column) = pack(first * scale, second * scale);
}

extern "C" int flash_backward(const bf16* q, const bf16* k, const bf16* v, const bf16* o, const float* lse,
                              const bf16* d_o, float* delta, float* sums, bf16* dq, bf16* dk, bf16* dv,
                              int heads, int T, int group, float scale, bool causal, cudaStream_t stream) {
  const int rows = heads * T, tiles = (T + Br - 1) / Br;
  const size_t pairs = (size_t)heads * tiles * TILE / 2;
  const dim3 keys((T + Bc - 1) / Bc, heads / group);
  cudaFuncSetAttribute(flash_backward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  flash_delta_kernel<<<(rows + 3) / 4, dim3(32, 4), 0, stream>>>(o, d_o, delta, rows);
  cudaMemsetAsync(sums, 0, 2 * pairs * sizeof(float), stream);
  flash_backward_kernel<<<keys, THREADS, SHARED_BYTES, stream>>>(q, k, v, d_o, lse, delta, sums, dk, dv, T,
                                                                 group, scale, causal);
  flash_round_kernel<<<(unsigned)((pairs + 255) / 256), 256, 0, stream>>>(sums, dq, T, tiles, scale, pairs);
  return cudaGetLastError();
}
