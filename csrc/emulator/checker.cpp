// The checker. Kernels are compiled with -fsanitize=thread, which puts a call before every access to memory.
// We do not link ThreadSanitizer: we answer the calls ourselves (sanitizer_hooks.cpp) and know what a block,
// a barrier and a warp are. Two accesses to one word, one of them a write, need an order that the program
// itself enforces: the same thread, a barrier between, or a __syncwarp between. If there is none, it is a
// race, also when the emulator happened to run them in the right order.
#include "shadow.h"
#include <algorithm>

namespace emu {
static uint32_t epoch;                           // barriers passed by this block, plus one
static uint32_t seen[MAX_THREADS][32];  // seen[t][i]: the clock of lane i up to which t knows what it did
static std::vector<int> owner;          // of each word of shared memory: index into variables, -1 = none
static Region* last;                    // where the last access fell: the next one falls there, mostly
static std::string uninitialised;                // reported at the next barrier, because a race says more

static uint32_t& clock_of(unsigned thread) { return seen[thread][thread % 32]; }

static bool ordered(const Access& before, const Access& now) {
  if (before.thread == now.thread || before.epoch < now.epoch) return true;
  return before.thread / 32 == now.thread / 32 && before.clock <= seen[now.thread][before.thread % 32];
}

// Why these two accesses, one of them a write, may happen in either order; null if they cannot.
static const char* conflict(const Access& before, const Access& now, bool shared) {
  if (before.block == 0 || !(before.bytes & now.bytes)) return nullptr;
  if (before.kind == ATOMIC && now.kind == ATOMIC) return nullptr;
  if (before.block == now.block) return ordered(before, now) ? nullptr : "with no barrier in between";
  if (shared || before.block < machine.launch_serial)
    return nullptr;  // another block's own, or an earlier kernel
  return "and nothing orders two blocks of a launch";
}

static void report_race(const char* why, const Region& region, const char* address, const Access& before,
                        bool wrote, const Access& now, bool writes) {
  auto lines = source_lines({before.code, now.code});
  fail("race on %s: %s %s it at %s and %s %s it at %s, %s", element(region, address).c_str(),
       thread_name(before.thread, before.block - machine.launch_serial).c_str(), wrote ? "wrote" : "read",
       lines[0].c_str(), thread_name().c_str(), writes ? "writes" : "reads", lines[1].c_str(), why);
}

// A word that a cp.async will fill, some time before its wait, is nobody's to touch until then.
static bool being_copied(const Access& before, const Access& now) {
  return before.kind == COPYING && before.block == now.block && before.bytes & now.bytes;
}
static void report_early(const Region& region, const char* address, const Access& copy, const Access& now,
                         bool writes) {
  auto lines = source_lines({copy.code, now.code});
  std::string who = copy.thread == now.thread ? "it" : thread_name(copy.thread, machine.block);
  fail("too early: %s %s %s at %s, but %s, which began to copy there at %s, has not waited for the copy",
       thread_name().c_str(), writes ? "writes" : "reads", element(region, address).c_str(), lines[1].c_str(),
       who.c_str(), lines[0].c_str());
}

// How independent two accesses are: 0 the same thread, 1 the same warp, 2 the same block, 3 different blocks.
static int distance(const Access& a, const Access& b) {
  return a.block != b.block ? 3 : a.thread / 32 != b.thread / 32 ? 2 : a.thread != b.thread;
}

// Keep two readers: one that no later access supersedes, and the one farthest from it. Then whoever writes
// next, at least one of the two is somebody else.
static void remember_reader(Word& word, const Access& now, bool shared) {
  auto superseded = [&](const Access& r) {
    if (r.block == now.block) return ordered(r, now) && (r.bytes | now.bytes) == now.bytes;
    return r.block == 0 || shared || r.block < machine.launch_serial;
  };
  Access &a = word.read[0], &b = word.read[1];
  if (superseded(a)) a = now;
  else if (superseded(b) || distance(now, a) > distance(b, a)) b = now;
}

static void out_of_bounds(const char* address, unsigned bytes, bool write, uint32_t code) {
  fail("out of bounds: %s %s %u bytes at %s, %s", thread_name().c_str(), write ? "writes" : "reads", bytes,
       source_line(code).c_str(), nearest(address).c_str());
}

static Region* find(char* address) {
  if (last && last->begin <= address && address < last->end) return last;
  if (shared_memory.begin <= address && address < shared_memory.end) return last = &shared_memory;
  auto next = tensors.upper_bound(address);
  if (next == tensors.end() || address < next->second.begin) return nullptr;
  return last = &next->second;
}

static void check_word(Word& word, const Access& now, Region& region, char* address, bool write) {
  if (being_copied(word.write, now)) return report_early(region, address, word.write, now, write);
  if (const char* why = conflict(word.write, now, region.shared))
    return report_race(why, region, address, word.write, true, now, write);
  if (write)
    for (Access& reader : word.read)
      if (const char* why = conflict(reader, now, region.shared))
        return report_race(why, region, address, reader, false, now, true);
  bool written = region.shared ? word.write.block == now.block : region.initialised || word.write.block;
  if ((!write || now.kind == ATOMIC) && !written && uninitialised.empty())
    uninitialised = "uninitialised: " + thread_name() + " reads " + element(region, address) + " at " +
                    source_line(now.code) + " before anyone wrote it";
  if (write) word.write = now;
  else remember_reader(word, now, region.shared);
}

void access(const void* where, unsigned bytes, bool write, Kind kind, const void* return_address,
            bool counted) {
  char* address = (char*)where;
  if (!machine.running || (machine.stack <= address && address < machine.stack_end))
    return;  // a thread's own variables
  uint32_t code = uint32_t((char*)return_address - 1 - library);
  Region* region = find(address);
  if (!region) {
    bool arguments = machine.host_frame <= address && address < machine.host_frame + 4096;
    if (arguments || (library <= address && address < library_end && !write)) return;          // constants
    return out_of_bounds(address, bytes, write, code);
  }
  size_t at = address - region->begin;
  bool hole = region->shared && (owner[at / 4] < 0 || owner[at / 4] != owner[(at + bytes - 1) / 4]);
  if (address + bytes > region->end || hole) return out_of_bounds(address, bytes, write, code);
  if (counted) count(*region, address, bytes, write, kind == ATOMIC, code);
  Access now{machine.serial, epoch, clock_of(machine.thread), code, uint16_t(machine.thread), 15, kind};
  if (bytes < 4) now.bytes = uint8_t(((1 << bytes) - 1) << at % 4);
  for (size_t i = at / 4; i <= (at + bytes - 1) / 4; i++)
    check_word(region->words[i], now, *region, region->begin + 4 * i, write);
}

void aligned_access(const void* p, unsigned bytes, bool write, Kind kind, const void* return_address) {
  if (machine.running && uintptr_t(p) % bytes)
    fail("misaligned: %s %s %u bytes at %s at address %#lx, which is not a multiple of %u",
         thread_name().c_str(), write ? "writes" : "reads", bytes,
         source_line(uint32_t((char*)return_address - 1 - library)).c_str(), (unsigned long)p, bytes);
  access(p, bytes, write, kind, return_address);
}
void atomic_access(void* address, size_t bytes) {
  access(address, unsigned(bytes), true, ATOMIC, __builtin_return_address(0));
}

// ldmatrix: the lane that names a row reads it, as one request of 16 bytes; each lane reads what it receives,
// and after another lane's write only a __syncwarp or a barrier orders that.
static void must_be_shared(const char* op, const char* address, const void* code) {
  if (shared_memory.begin <= address && address < shared_memory.end) return;
  fail("%s: %s at %s names an address that is not in shared memory", op, thread_name().c_str(),
       source_line(uint32_t((char*)code - 1 - library)).c_str());
}
void on_row(const void* row, const void* code) {
  must_be_shared("ldmatrix", (const char*)row, code);
  aligned_access(row, 16, false, PLAIN, code);
}
void on_received(const void* address, unsigned bytes, const void* code) {
  access(address, bytes, false, PLAIN, code, false);
}
// cp.async: from its begin to its wait the words belong to the copy; after the wait this thread has written
// them.
void on_copy_begin(char* to, const char* from, unsigned bytes, bool inside, const void* code) {
  must_be_shared("cp_async", to, code);
  if (inside) aligned_access(from, bytes, false, PLAIN, code);
  aligned_access(to, bytes, true, COPYING, code);
}
void on_copy_end(char* to, unsigned bytes, const void* return_address) {
  Access now{machine.serial, epoch, clock_of(machine.thread), uint32_t((char*)return_address - 1 - library),
             uint16_t(machine.thread), 15, PLAIN};
  for (unsigned i = 0; i < bytes; i += 4) shared_memory.words[(to + i - shared_memory.begin) / 4].write = now;
}

void on_launch() {
  find_library();
  last = nullptr;
  size_t words = (shared_memory.end - shared_memory.begin + 3) / 4;
  if (shared_memory.words.size() != words) shared_memory.words.assign(words, Word());
  owner.assign(words, -1);
  for (size_t v = 0; v < variables.size(); v++) {
    size_t bytes = variables[v].name == "smem" ? machine.dynamic_bytes : variables[v].bytes;
    for (size_t i = 0; i < (bytes + 3) / 4; i++) owner[variables[v].offset / 4 + i] = int(v);
  }
}

void on_block() {
  for (const Variable& v : variables)            // a float read before it is written is not a number
    memset(shared_memory.begin + v.offset, 0xff, v.name == "smem" ? machine.dynamic_bytes : v.bytes);
  forget_parts();
  count_block();
  uninitialised.clear();
  epoch = 1;
  for (unsigned t = 0; t < machine.threads; t++) {
    memset(seen[t], 0, sizeof seen[t]);
    clock_of(t) = 1;
  }
}
void on_block_end() {
  if (!uninitialised.empty()) fail("%s", uninitialised.c_str());
  uninitialised.clear();
}
void on_barrier() {
  on_block_end();
  epoch++;
  count_barrier();
}
// Each lane of the mask now knows what all of them knew, and begins a new interval of its own.
void on_sync_warp(unsigned warp, unsigned mask) {
  uint32_t joined[32] = {};
  for (unsigned i = 0; i < 32; i++)
    if (mask >> i & 1)
      for (unsigned j = 0; j < 32; j++) joined[j] = std::max(joined[j], seen[warp * 32 + i][j]);
  for (unsigned i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    memcpy(seen[warp * 32 + i], joined, sizeof joined);
    clock_of(warp * 32 + i)++;
  }
}
void on_shuffle() { count_shuffle(); }
void on_mma(bool during_copies) { count_mma(during_copies); }
void on_memset(char* to, size_t bytes) {
  Region* region = find(to);
  if (!region || to + bytes > region->end)
    return fail("cudaMemsetAsync: %zu bytes reach outside of a tensor", bytes);
  count_memset(bytes);
  if (to == region->begin && to + bytes == region->end) region->initialised = true;
}
}  // namespace emu
