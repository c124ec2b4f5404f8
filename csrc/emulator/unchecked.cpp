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
void on_mma(bool) {}
void on_row(const void*, const void*) {}
void on_received(const void*, unsigned, const void*) {}
void on_copy_begin(char*, const char*, unsigned, bool, const void*) {}
void on_copy_end(char*, unsigned, const void*) {}
void name_shared_part(const char*, char*, size_t, size_t) {}
void atomic_access(void*, size_t) {}
}  // namespace emu
