// What a warp does together on matrices (mma, ldmatrix), and copies that happen later (cp.async).
#include "waiting.h"

namespace emu {
static bool copies_under_way();                  // of the running thread

// A register holds two numbers of bf16, the first in its lower half.
static float lower(uint32_t pair) {
  pair <<= 16;
  float x;
  memcpy(&x, &pair, 4);
  return x;
}
static float upper(uint32_t pair) { return lower(pair >> 16); }

// ---- mma: lane 4 g + t brings its numbers to their places in A, B and C, and takes its part of C + A B
struct Fragments {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};

static void multiply_all(void* const lanes[32]) {
  float A[16][16], B[16][8], C[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Fragments& f = *static_cast<Fragments*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
      float* pair = &A[g + i % 2 * 8][2 * t + i / 2 * 8];
      pair[0] = lower(f.a[i]), pair[1] = upper(f.a[i]);
      C[g + i / 2 * 8][2 * t + i % 2] = f.c[i];
    }
    for (int i = 0; i < 2; i++) B[2 * t + 8 * i][g] = lower(f.b[i]), B[2 * t + 8 * i + 1][g] = upper(f.b[i]);
  }
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 8; n++) C[m][n] += A[m][k] * B[k][n];
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++)
      static_cast<Fragments*>(lanes[lane])->c[i] = C[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  on_mma(copies_under_way());
}
void multiply(float* c, const uint32_t* a, uint32_t b0, uint32_t b1, Site site) {
  Fragments mine{c, a, {b0, b1}};
  together(&mine, multiply_all, "mma_m16n8k16", site);
}

// ---- ldmatrix: a lane names a row of 16 bytes, and receives 4 bytes of each tile, mostly out of rows of
// others
struct Rows {
  uint32_t* r;
  const char* row;
  const char* source[8];                         // where the 8 numbers that this lane receives came from
};

template <bool transposed> static void gather(void* const lanes[32]) {
  for (int lane = 0; lane < 32; lane++) {
    Rows& mine = *static_cast<Rows*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 8; i++) {                // number i % 2 of the register for tile i / 2
      const int row = transposed ? 2 * t + i % 2 : g, column = transposed ? g : 2 * t + i % 2;
      mine.source[i] = static_cast<Rows*>(lanes[i / 2 * 8 + row])->row + 2 * column;
      memcpy((char*)(mine.r + i / 2) + i % 2 * 2, mine.source[i], 2);
    }
  }
}
void load_matrices(uint32_t* r, const void* row, bool transposed, const char* op, Site site) {
  const void* code = __builtin_return_address(0);
  Rows mine{r, (const char*)row, {}};
  on_row(row, code);                             // counted as one request of 16 bytes by this lane
  together(&mine, transposed ? gather<true> : gather<false>, op, site);
  for (int i = 0; i < 8; i += 2) {               // and ordered as a read by the lane that receives
    bool pair = mine.source[i + 1] == mine.source[i] + 2;
    on_received(mine.source[i], pair ? 4 : 2, code);
    if (!pair) on_received(mine.source[i + 1], 2, code);
  }
}

// ---- cp.async: begun now, done at the wait, as late as the rules allow: whoever looks too early sees the
// old bits
struct Copy {
  char* to;
  const char* from;
  unsigned bytes, group;
  bool inside;
  const void* code;
  Site site;
};
struct Copies {
  std::vector<Copy> pending;
  unsigned committed = 0;                        // groups closed so far: the number of the open one
};
static std::vector<Copies> copies;               // of each thread of the block

void forget_copies() { copies.assign(machine.threads, Copies()); }
static bool copies_under_way() { return !copies[machine.thread].pending.empty(); }

void begin_copy(void* to, const void* from, unsigned bytes, bool inside, Site site) {
  if (!machine.running) return fail("cp_async of %s runs outside a kernel", place(site).c_str());
  const void* code = __builtin_return_address(0);
  on_copy_begin((char*)to, (const char*)from, bytes, inside, code);
  Copies& mine = copies[machine.thread];
  mine.pending.push_back({(char*)to, (const char*)from, bytes, mine.committed, inside, code, site});
}
void commit_copies() {
  if (machine.running) copies[machine.thread].committed++;
}
void wait_for_copies(unsigned newest) {          // for all groups but the `newest` last ones
  if (!machine.running) return;
  Copies& mine = copies[machine.thread];
  size_t done = 0;
  for (; done < mine.pending.size() && mine.pending[done].group + newest < mine.committed; done++) {
    const Copy& c = mine.pending[done];
    if (c.inside) memcpy(c.to, c.from, c.bytes);
    else memset(c.to, 0, c.bytes);
    on_copy_end(c.to, c.bytes, c.code);
  }
  mine.pending.erase(mine.pending.begin(), mine.pending.begin() + done);
}
void check_copies_are_done() {                   // the thread returns
  if (copies[machine.thread].pending.empty()) return;
  fail("%s returns without waiting for the copy that it began at %s", thread_name().c_str(),
       place(copies[machine.thread].pending[0].site).c_str());
}
}  // namespace emu
