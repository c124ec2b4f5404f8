// The fast build: nobody listens.
#include "emulator.h"

namespace emu {
void on_launch() {}
void on_block() {}
void on_barrier() {}
void on_sync_warp(unsigned, unsigned) {}
void on_shuffle() {}
void on_block_end() {}
void on_memset(char*, size_t) {}
void atomic_access(void*, size_t) {}
}  // namespace emu
