"""A bank of bugs to plant in the rungs of csrc/flash, and what check mode must say about each.

(what is wrong, rung, file, right fragment, wrong fragment, report). The report is a regular expression for
the checker's sentence, or "WRONG": no rule of CUDA broken, so that only the comparison with float64 can tell.
Used by test_flash_bugs.py.
"""
R1, R2, R3 = "flash_1_registers.cu", "flash_2_mma.cu", "flash_3_swizzle.cu"
R4, R5, RD = "flash_4_pipeline.cu", "flash_5_backward.cu", "flash_5_deterministic.cu"
TILES, FRAGMENTS = "swizzled_tiles.cuh", "fragments.cuh"
WAIT = "    cp_async_wait<0>();\n"
BARRIER = ("    __syncthreads();  // this K and V are complete, and everyone is done with the last ones: "
           "fill their place\n")
BEGIN = "    if (k0 + Bc < end) begin_stage(k0 + Bc);\n"
COMMIT = "    cp_async_commit();\n    // END"
DS_READY = "    __syncthreads();  // dS^T is complete\n"
EARLY = (r"too early: thread .* reads K and V of stage [01]\[\d+\] at flash_4_pipeline.cu:\d+, but .*, which "
         r"began to copy there at flash_4_pipeline.cu:\d+, has not waited")
RACE = r"race on K and V of stage [01]\[\d+\]: .* with no barrier in between"

BUGS = [
    # copies: missing waits, barriers in the wrong place, wrong stages
    ("no wait for the copies", "4", R4, WAIT, "",
     r"too early: thread .* reads (Q|K and V of stage 0)\[\d+\] at"),
    ("waits for all groups but one", "4", R4, WAIT, "    cp_async_wait<1>();\n",
     r"too early|returns without waiting"),
    ("no barrier after the wait", "4", R4, BARRIER, "", r"race on Q\[\d+\]|too early|" + RACE),
    ("the barrier before the wait", "4", R4, WAIT + BARRIER, "    __syncthreads();\n" + WAIT,
     r"too early: |race on (Q|K and V of stage [01])\[\d+\]"),
    ("the next copy begins before the barrier", "4", R4, WAIT + BARRIER + BEGIN + "    cp_async_commit();\n",
     BEGIN + "    cp_async_commit();\n    cp_async_wait<1>();\n    __syncthreads();\n", RACE),
    ("no commit in the loop", "4", R4, COMMIT, "    // END",
     r"too early|returns without waiting for the copy"),
    ("the commit before the copies", "4", R4, BEGIN + COMMIT,
     "    cp_async_commit();\n" + BEGIN + "    // END", r"too early|returns without waiting for the copy"),
    ("one stage for two tiles", "4", R4, "k0 / Bc % 2 * 2 * TILE", "0", r"too early|race on"),
    ("reads the stage that is being filled", "4", R4, "bf16 *K = stage(k0), *V",
     "bf16 *K = stage(k0 + Bc), *V", EARLY),
    ("one tile too many, never waited for", "4", R4, "if (k0 + Bc < end) begin_stage", "begin_stage",
     r"returns without waiting for the copy that it began at line \d+ of swizzled_tiles.cuh"),
    ("Q read before it has arrived", "5 deterministic", RD,
     "  cp_async_wait<1>();\n  __syncthreads();  // Q and dO are complete\n",
     "  cp_async_wait<2>();\n  __syncthreads();  // Q and dO are complete\n",
     r"too early: .* reads (Q|dO)\[\d+\]"),
    ("K and V read before they have arrived", "5", R5,
     "  cp_async_wait<1>();\n  __syncthreads();  // K and V are complete\n",
     "  __syncthreads();  // K and V are complete\n",
     r"too early: .* reads K\[\d+\] at flash_5_backward.cu:\d+"),
    ("one buffer of L and delta for two stages", "5", R5, "cp_async_4(rows + step % 2 * 2 * Br + threadIdx.x",
     "cp_async_4(rows + threadIdx.x", r"too early|race on L and delta|uninitialised: .* L and delta"),
    ("no barrier in a step of the backward pass", "5 deterministic", RD,
     "    __syncthreads();  // this Q and dO are complete, and everyone is done with the last ones\n", "",
     r"race on|too early"),
    # shared memory written and read by different warps
    ("no barrier before dS^T is read", "5", R5, DS_READY, "",
     r"race on dS\[\d+\]: .* with no barrier in between"),
    ("a warp's barrier before dS^T is read", "5", R5, DS_READY, "    __syncwarp();\n", r"race on dS\[\d+\]"),
    ("no barrier before K and V are overwritten", "3", R3,
     "    __syncthreads();  // everyone is done with the last K and V\n", "", r"race on [KV]\[\d+\]"),
    ("no barrier after K and V are written", "3", R3, "    __syncthreads();  // the tiles are complete\n", "",
     r"race on [QKV]\[\d+\]"),
    ("no barrier before V takes the place of K", "1", R1,
     "    __syncthreads();  // everyone is done with K\n", "", r"race on smem\[\d+\]"),
    ("dQ added without an atomic", "5", R5, "atomicAdd(to + share(0, 0, n, e), dQ[0][n][e])",
     "to[share(0, 0, n, e)] += dQ[0][n][e]", r"race on sums\[\d+\]: .* nothing orders two blocks"),
    ("two warps own the same rows of the deterministic dQ", "5 deterministic", RD,
     "const int q0 = (gridDim.x - 1 - blockIdx.x) * Br, row0 = q0 + 16 * M * warp;",
     "const int q0 = (gridDim.x - 1 - blockIdx.x) * Br, row0 = q0 + 16 * M * (warp / 2 * 2);",
     r"race on dq\[\d+\]"),
    # lanes and addresses
    ("half of a warp in one mma", "4", TILES, "    mma_m16n8k16(c[i][n + 1]",
     "    if (threadIdx.x % 32 < 16) mma_m16n8k16(c[i][n + 1]", r"lanes of a warp diverge|can never reach"),
    ("a warp skips a tile before the barrier", "4", R4, WAIT,
     "    if (causal && k0 >= row0 + 16 * M) continue;\n" + WAIT,
     r"not all threads reach a barrier|too early|race on|returns without waiting"),
    ("tiles begin 8 bytes too early", "4", R4, "*Q = KV + 4 * TILE;", "*Q = KV + 4 * TILE - 4;",
     r"misaligned: .* 16"),
    ("more than 48 KB without asking", "5", R5, "  cudaFuncSetAttribute(", "  // cudaFuncSetAttribute(",
     r"more than 48 KB of dynamic shared memory must be asked for"),
    ("too little shared memory asked for", "4", R4, "THREADS, SHARED_BYTES, stream",
     "THREADS, SHARED_BYTES - 1024, stream", r"out of bounds: .* past the end of smem"),
    ("rows past T are copied too", "4", TILES, "first + r + i < T);", "true);",
     r"out of bounds: .* reads 16 bytes at .* past the end of [qkv]"),
    # no rule broken: the numbers are wrong
    ("the swizzle on one side only", "4", TILES,
     "ldmatrix_x4(a, piece(tile + r * D, lane % 16, (2 * c) ^ (lane / 16)));",
     "ldmatrix_x4(a, tile + (r + lane % 16) * D + 16 * c + lane / 16 * 8);", "WRONG"),
    ("the wrong pair of registers for B", "4", TILES, "c[i][n], a[i], b[0], b[1]",
     "c[i][n], a[i], b[0], b[2]", "WRONG"),
    ("K read as if it were V", "3", R3, "load_b(b, K, 16 * n, d);",
     "load_b_trans(b, K, 16 * n, d);", "WRONG"),
    ("the left and the right half of P exchanged", "2", FRAGMENTS,
     "a[1] = pack(left[2], left[3]);\n  a[2] = pack(right[0], right[1]);",
     "a[1] = pack(right[0], right[1]);\n  a[2] = pack(left[2], left[3]);", "WRONG"),
    ("a row's maximum over two of its four lanes", "4", FRAGMENTS,
     "for (int bit = 2; bit > 0; bit /= 2) x += __shfl",
     "for (int bit = 1; bit > 0; bit /= 2) x += __shfl", "WRONG"),
    ("the mask forgets the ragged end", "4", R4, "causal ? min(T, row + 1) : T;",
     "causal ? row + 1 : 1 << 30;", "WRONG"),
    ("only tiles wholly on the diagonal are masked", "4", R4, "k0 + Bc - 1 > row0)", "k0 > row0)", "WRONG"),
    ("dS^T read without transposing", "5", R5, "ldmatrix_x4_trans(a, piece<Br>",
     "ldmatrix_x4(a, piece<Br>", "WRONG"),
]
