// What rungs 3 to 5 share: tiles of bf16 in shared memory that ldmatrix reads without bank conflicts, and
// products with them.
//
// A row of a tile is made of pieces of 8 numbers, 16 bytes: what ldmatrix and cp.async move. Shared memory
// serves 128 bytes at a time, one piece from each of 8 columns of 4 banks. Let rows of 64 numbers simply
// follow each other, and piece 0 of 8 rows, which one ldmatrix wants together, lies in one column: 8 turns.
// Exclusive or with the row's number puts it into another column in each row, without padding:
//
//        row 0    0 1 2 3 4 5 6 7      which piece of a row lies in which column: over 8 rows each
//        row 1    1 0 3 2 5 4 7 6      piece visits each column once, so 8 rows take one turn
//        row 2    2 3 0 1 6 7 4 5
//        row 3    3 2 1 0 7 6 5 4
//         ...
#pragma once
#include "fragments.cuh"

#ifndef SWIZZLE
#define SWIZZLE 1  // 0 to see what it is good for
#endif

// Where piece c of row r of a tile of WIDTH columns lies. Narrow rows share a line of 128 bytes: then it is
// the line's number that changes the order.
template <int WIDTH = D>
__device__ __forceinline__ bf16* piece(bf16* tile, int r, int c) {
  constexpr int ROWS_PER_LINE = WIDTH < 64 ? 64 / WIDTH : 1, COLUMNS = WIDTH < 64 ? WIDTH / 8 : 8;
  // EXERCISE c.10 the swizzle
  const int shift = SWIZZLE ? r / ROWS_PER_LINE % COLUMNS : 0;
  return tile +
         ((WIDTH * r + 8 * shift) ^ (8 * c));  // = WIDTH r + 8 (shift ^ c): for all c of a row, one xor away
  // END EXERCISE c.10
}

// Begin to copy the rows first, first + 1, ... of a [T, D] matrix into a tile, all threads together; zeros
// past T.
template <int ROWS, int THREADS>
__device__ __forceinline__ void begin_copy(bf16* tile, const bf16* matrix, int first, int T) {
  constexpr int PIECES = D / 8,
                AT_ONCE = THREADS / PIECES;  // pieces in a row; rows that the block copies at once
  static_assert(ROWS % AT_ONCE == 0 && AT_ONCE % 8 == 0, "a thread copies one piece of each AT_ONCE rows");
  const int r = threadIdx.x / PIECES, c = threadIdx.x % PIECES;
  const bf16* from = matrix + (size_t)(first + r) * D + 8 * c;
#pragma unroll
  for (int i = 0; i < ROWS; i += AT_ONCE)
    cp_async_16(piece(tile + i * D, r, c), from + (size_t)i * D, first + r + i < T);
}

// The 16 x 16 square at row r (a multiple of 16) and column 16 c of a tile, four 8 x 8 tiles in one ldmatrix.
// As a left matrix: a fragment A.
__device__ __forceinline__ void load_a(uint32_t (&a)[4], bf16* tile, int r, int c) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4(a, piece(tile + r * D, lane % 16, (2 * c) ^ (lane / 16)));
}
// As a right matrix whose rows n the tile holds (K in Q K^T): b[0], b[1] are the fragment B of its columns r
// .. r + 7, and b[2], b[3] that of r + 8 .. r + 15. The two registers of a fragment are neighbours: the
// hardware wants a pair.
__device__ __forceinline__ void load_b(uint32_t (&b)[4], bf16* tile, int r, int c) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4(b, piece(tile + r * D, lane % 8 + lane / 16 * 8, (2 * c) ^ (lane / 8 % 2)));
}
// As a right matrix whose rows k the tile holds (V in P V): b[0], b[1] are the fragment B of its columns 16 c
// .. 16 c + 7, and b[2], b[3] that of the next 8.
__device__ __forceinline__ void load_b_trans(uint32_t (&b)[4], bf16* tile, int r, int c) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4_trans(b, piece(tile + r * D, lane % 16, (2 * c) ^ (lane / 16)));
}

// M fragments A, 16 M rows, times one square B: adds to the tiles n and n + 1 of each row of tiles C.
template <int M, int N>
__device__ __forceinline__ void multiply(float (&c)[M][N][4], int n, const uint32_t (&a)[M][4],
                                         const uint32_t (&b)[4]) {
#pragma unroll
  for (int i = 0; i < M; i++) {
    mma_m16n8k16(c[i][n], a[i], b[0], b[1]);
    mma_m16n8k16(c[i][n + 1], a[i], b[2], b[3]);
  }
}
// M fragments A times the rows r .. r + 15 of a tile: adds to all D columns.
template <int M>
__device__ __forceinline__ void multiply_rows(float (&c)[M][D / 8][4], const uint32_t (&a)[M][4], bf16* tile,
                                              int r) {
#pragma unroll
  for (int n = 0; n < D / 16; n++) {
    uint32_t b[4];
    load_b_trans(b, tile, r, n);
    multiply(c, 2 * n, a, b);
  }
}
