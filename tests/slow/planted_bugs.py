"""A bank of bugs to plant in the attention kernels, and what check mode must say about each.

(what is wrong, file, right fragment, wrong fragment,
     report). The report is a regular expression for the checker's
sentence, or "WRONG": pure logic, no rule of CUDA broken, so that only the comparison with float64 can tell.
Used by test_planted_bugs.py.
"""
FLASH, NAIVE = "flash_attention.cu", "attention_naive.cu"
DONE = "    __syncthreads();  // everyone is done with the last K and V\n"
READY = "    __syncthreads();  // the tiles are complete\n"
LOAD = "tile[r][d] = first + r < T ? matrix[(size_t)(first + r) * D + d] : 0.f;"
SYNCWARP = "    __syncwarp();"
BACK_DONE = "      __syncthreads();  // everyone is done with the last Q, dO, P, dS\n"
BACK_READY = "      __syncthreads();  // the tiles are complete\n"
BACK_P = "      __syncthreads();  // P and dS are complete\n"

BUGS = [
    # races
    ("no barrier between loading K, V and reading them", FLASH, READY, "",
     r"race on [KV]\[\d+\]: thread .* block (.*) read it at .* thread .* writes it"),
    ("no barrier between reading K, V and loading the next", FLASH, DONE, "",
     r"race on [KV]\[\d+\]: .* read it at .* writes it"),
    ("no __syncwarp between writing P and reading it", FLASH, SYNCWARP, "//",
     r"race on P\[\d+\]: .* wrote it .* reads it"),
    ("backward: no barrier before Q and dO are replaced", FLASH, BACK_DONE, "", r"race on (Q|dO)\[\d+\]"),
    ("backward: no barrier after Q and dO are loaded", FLASH, BACK_READY, "", r"race on (Q|dO|K|V)\[\d+\]"),
    ("backward: no barrier between dS and its transpose", FLASH, BACK_P, "", r"race on (P|dS)\[\d+\]"),
    ("backward: a warp's barrier where the block's is needed", FLASH, BACK_P, "      __syncwarp();\n",
     r"race on (P|dS)\[\d+\]"),
    ("backward: dQ added without an atomic", FLASH, "atomicAdd(&dq[at + (size_t)row * D + d], from_k)",
     "dq[at + (size_t)row * D + d] += from_k",
     r"race on dq\[\d+\]: .* nothing orders two blocks"),
    ("two rows of threads own one row of P", FLASH, "P[r][c + LANES * j] = p;",
     "P[r / 2][c + LANES * j] = p;", r"race on P\[\d+\]: .* wrote it .* (writes|reads) it"),
    ("all lanes write their row's log-sum-exp", FLASH, "if (c == 0) lse[row]", "lse[row]",
     r"race on lse\[\d+\]: .* wrote it .* writes it"),
    ("blocks overlap by a row of queries", FLASH, "q0 = blockIdx.x * Br, row",
     "q0 = blockIdx.x * (Br - 1), row", r"race on o\[\d+\]: .* nothing orders two blocks"),
    ("naive: no barrier after the tiles are read", NAIVE,
     "    __syncthreads();  // everyone has read them\n", "", r"race on [qk]\[\d+\]"),
    ("naive: no barrier after the tiles are written", NAIVE,
     "    __syncthreads();  // the tiles are complete\n", "", r"race on [qk]\[\d+\]"),
    # barriers
    ("a barrier only for rows that exist", FLASH, BACK_READY, "      if (q0 + r < T) __syncthreads();\n",
     r"not all threads reach a barrier|race on"),
    ("threads without a row return before the barrier", FLASH, "  load_tile(Q, q, q0, T);\n  float m",
     "  if (row >= T) return;\n  load_tile(Q, q, q0, T);\n  float m",
     r"not all threads reach a barrier: .* can never reach: it has returned"),
    ("a shuffle only for rows that exist", FLASH, "m_new = row_max(m_new);",
     "if (row < T) m_new = row_max(m_new);", r"lanes of a warp diverge|can never reach"),
    ("a shuffle mask that forgets half of the warp", FLASH, "ALL_LANES = 0xffffffff",
     "ALL_LANES = 0x0000ffff", r"mask 0000ffff, which lacks its own lane"),
    ("causal tiles end at a different place for each row", FLASH,
     "const int end = causal ? min(T, q0 + Br) : T;", "const int end = causal ? min(T, row + 1) : T;",
     r"not all threads reach a barrier|race on|diverge"),
    # out of bounds
    ("rows past the end are read", FLASH, LOAD, "tile[r][d] = matrix[(size_t)(first + r) * D + d];",
     r"out of bounds: .* reads 4 bytes at flash_attention.cu:\d+, .* past the end of [qkv]"),
    ("rows past the end are written", FLASH, "  if (row < T) {\n#pragma unroll", "  {\n#pragma unroll",
     r"race on o\[|out of bounds: .* writes 4 bytes at .* past the end of (o|lse)"),
    ("a row of K too far", FLASH, "dot(Q[r], K[c + LANES * j])", "dot(Q[r], K[c + 1 + LANES * j])",
     r"out of bounds: .* (past the end of K|uses index 32 )"),
    ("a column of P too far", FLASH, "P[r][c + LANES * j] = p;", "P[r][c + 5 + LANES * j] = p;",
     r"out of bounds: .* uses index 36 of an array 'float ?\[36\]'|race on P"),
    ("the offset of a head counts the query heads for K", FLASH, "k += (size_t)(head / group) * T * D;",
     "k += (size_t)head * T * D;", r"out of bounds: .* (past the end of k|where no tensor)"),
    ("backward: gradients of keys that do not exist are written", FLASH, "  if (k0 + r < T) {\n", "  {\n",
     r"race on d[kv]\[|out of bounds: .* writes .* d[kv]"),
    # uninitialised
    ("the rest of a tile is left as it was", FLASH, LOAD,
     "if (first + r < T) " + LOAD.replace("first + r < T ? ", "").replace(" : 0.f", ""),
     r"uninitialised: .* reads [QKV]\[\d+\]"),
    ("the output is added to, not set", FLASH, "= O[i] / l;", "+= O[i] / l;",
     r"uninitialised: .* reads o\[\d+\]"),
    ("Q is never loaded", FLASH, "  load_tile(Q, q, q0, T);\n  float m", "  float m",
     r"uninitialised: .* reads Q\[\d+\]"),
    ("dQ is not set to zero", FLASH, "  cudaMemsetAsync(dq, 0, (size_t)rows * D * sizeof(float), stream);\n",
     "", r"uninitialised: .* reads dq\[\d+\]"),
    ("naive: the softmax reads another array than the scores wrote", NAIVE,
     "S[(size_t)row * T + col] = causal", "if (col % 2) S[(size_t)row * T + col] = causal",
     r"uninitialised: .* reads S\[\d+\]"),
    # launches
    ("one thread per row and lane of a tile of 512 rows", FLASH, "THREADS = Br * LANES",
     "THREADS = 512 * LANES", r"invalid launch: a block has 1 to 1024 threads"),
    ("tiles larger than shared memory", FLASH, "constexpr int Br = QUERY_TILE",
     "constexpr int Br = 4 * QUERY_TILE",
     r"bytes of __shared__ arrays: a kernel has at most 49152|invalid launch"),
    # pure logic: only the numbers show it
    ("the running sum is not rescaled", FLASH, "l = l * alpha + row_sum(sum);", "l = l + row_sum(sum);",
     "WRONG"),
    ("the output is not rescaled", FLASH, "O[i] = O[i] * alpha + pv;", "O[i] = O[i] + pv;", "WRONG"),
    ("the mask is one token too wide", FLASH, "bool keep = col < T && (!causal || col <= row);\n      s[j]",
     "bool keep = col < T && (!causal || col <= row + 1);\n      s[j]", "WRONG"),
    ("each lane has a maximum of its own", FLASH, "m_new = row_max(m_new);", "", "WRONG"),
    ("delta is not subtracted", FLASH, "(dot(dO[r], V[j]) - Delta) * scale", "dot(dO[r], V[j]) * scale",
     "WRONG"),
    ("dK misses the scale", FLASH, "(dot(dO[r], V[j]) - Delta) * scale", "(dot(dO[r], V[j]) - Delta)",
     "WRONG"),
    ("the log-sum-exp forgets the maximum", FLASH, "lse[row] = m + logf(l);", "lse[row] = logf(l);", "WRONG"),
    ("a sum starts with what was in the register", FLASH, "  float sum = 0;\n  for (int d = lane;",
     "  float sum;\n  for (int d = lane;", "WRONG"),
]
