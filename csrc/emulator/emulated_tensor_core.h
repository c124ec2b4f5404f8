// The functions of ../flash/tensor_core.cuh for the emulator. There each is one line of PTX; here the 32
// fibers of a warp meet, and the last one to arrive does the work of all (tensor_core.cpp). What they mean,
// and the drawings of the fragments, are there.
#pragma once
#include "cuda_bf16.h"

namespace emu {
void multiply(float* c, const uint32_t* a, uint32_t b0, uint32_t b1, Site);
void load_matrices(uint32_t* r, const void* row, bool transposed, const char* op, Site);
void begin_copy(void* to, const void* from, unsigned bytes, bool inside, Site);
void commit_copies();
void wait_for_copies(unsigned newest);
void name_shared_part(const char* name, char* begin, size_t bytes, size_t bytes_of_one);
}  // namespace emu

EMU_INLINE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_CALLER) {
  emu::multiply(c, a, b0, b1, {file, line});
}
EMU_INLINE void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMU_CALLER) {
  emu::load_matrices(r, row, false, "ldmatrix_x4", {file, line});
}
EMU_INLINE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMU_CALLER) {
  emu::load_matrices(r, row, true, "ldmatrix_x4_trans", {file, line});
}
EMU_INLINE void cp_async_16(void* to_shared, const void* from_global, bool inside, EMU_CALLER) {
  emu::begin_copy(to_shared, from_global, 16, inside, {file, line});
}
EMU_INLINE void cp_async_4(void* to_shared, const void* from_global, bool inside, EMU_CALLER) {
  emu::begin_copy(to_shared, from_global, 4, inside, {file, line});
}
EMU_INLINE void cp_async_commit() { emu::commit_copies(); }
template <int NEWEST> EMU_INLINE void cp_async_wait() { emu::wait_for_copies(NEWEST); }
EMU_INLINE void cp_async_wait_all() { cp_async_wait<0>(); }
EMU_INLINE float fast_exp2(float x) { return exp2f(x); }
// Reports then say K[27] instead of smem[3576], which nobody can place.
template <class T> EMU_INLINE void name_shared(const char* name, T* begin, size_t count) {
  emu::name_shared_part(name, (char*)begin, count * sizeof(T), sizeof(T));
}
