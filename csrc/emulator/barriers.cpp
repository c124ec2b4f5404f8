// The places where threads meet: __syncthreads for a block; __syncwarp, shuffles, votes and the instructions
// of tensor_core.cpp for lanes of a warp.
#include "waiting.h"

namespace emu {
static unsigned arrived, generation;         // of the block's barrier
static Site barrier_site;

void barrier(Site site) {
  if (!machine.running) return fail("__syncthreads of %s runs outside a kernel", place(site).c_str());
  if (arrived && (barrier_site.line != site.line || barrier_site.file != site.file))
    fail("not all threads reach a barrier: %s is at the __syncthreads of %s, others wait at that of %s",
         thread_name().c_str(), place(site).c_str(), place(barrier_site).c_str());
  barrier_site = site;
  if (++arrived < machine.threads) return wait(generation, "__syncthreads", site);
  arrived = 0;
  generation++;
  on_barrier();
}

// Lanes that name the same mask meet. Disjoint masks of one warp meet independently, so a warp has up to 32
// meeting points; that of a mask is numbered by its lowest lane.
enum Purpose { SYNC, SHUFFLE, VOTE, WORK };
struct Rendezvous {
  unsigned mask = 0, arrived = 0, generation = 0;
  const char* op = "";
  Site site{"", 0};
  uint64_t value[32];                        // what each lane brought
  int source[32];                            // whose value it wants
  Work work = nullptr;                       // what is done with the values, which are pointers then
};
static std::vector<Rendezvous> rendezvous;

void reset_rendezvous() {
  arrived = 0;
  rendezvous.assign((machine.threads + 31) / 32 * 32, Rendezvous());
}

unsigned lane() { return machine.thread % 32; }

// Everybody is there: give each lane its answer before any of them runs on.
static void complete(Rendezvous& r, unsigned warp, Purpose purpose) {
  uint64_t votes = 0;
  if (purpose == WORK) {
    void* lanes[32];
    for (unsigned i = 0; i < 32; i++) lanes[i] = (void*)r.value[i];
    r.work(lanes);
  }
  for (unsigned i = 0; i < 32; i++)
    if (r.mask >> i & 1) votes |= uint64_t(r.value[i] != 0) << i;
  for (unsigned i = 0; i < 32; i++)
    if (r.mask >> i & 1) threads[warp * 32 + i].answer = purpose == SHUFFLE ? r.value[r.source[i]] : votes;
  r.arrived = 0;
  r.generation++;
  if (purpose == SYNC) on_sync_warp(warp, r.mask);   // shuffles and votes order no memory, __syncwarp does
  else if (purpose != WORK) on_shuffle();
}

static uint64_t meet(Purpose purpose, unsigned mask, uint64_t mine, int source, const char* op, Site site,
                     Work work = nullptr) {
  if (!machine.running) return fail("%s of %s runs outside a kernel", op, place(site).c_str()), 0;
  unsigned warp = machine.thread / 32, existing = machine.threads - warp * 32;
  if (!(mask >> lane() & 1))
    fail("%s calls %s (%s) with mask %08x, which lacks its own lane %u", thread_name().c_str(), op,
         place(site).c_str(), mask, lane());
  if (existing < 32 && purpose == WORK)
    fail("%s (%s) needs the 32 threads of a warp, and the last warp of the block has %u", op,
         place(site).c_str(), existing);
  if (existing < 32) mask &= (1u << existing) - 1;           // the last warp of a block may be part empty
  if (source < 0 || source > 31 || !(mask >> source & 1))
    fail("%s: %s (%s) reads lane %d, which is not in the mask or not in the block", thread_name().c_str(), op,
         place(site).c_str(), source);
  Rendezvous& r = rendezvous[warp * 32 + __builtin_ctz(mask)];
  if (r.arrived && (r.mask != mask || r.op != op || r.site.line != site.line))
    fail("lanes of a warp diverge: %s is at %s of %s with mask %08x, lanes %08x wait at %s of %s with mask "
         "%08x",
         thread_name().c_str(), op, place(site).c_str(), mask, r.arrived, r.op, place(r.site).c_str(),
         r.mask);
  r.value[lane()] = mine;
  r.source[lane()] = source;
  r.mask = mask;
  r.op = op;
  r.site = site;
  r.work = work;
  r.arrived |= 1u << lane();
  if (r.arrived == mask) complete(r, warp, purpose);
  else wait(r.generation, op, site);
  return threads[machine.thread].answer;
}

uint64_t exchange(unsigned mask, uint64_t mine, int source, const char* op, Site site) {
  return meet(SHUFFLE, mask, mine, source, op, site);
}
unsigned vote(unsigned mask, bool mine, const char* op, Site site) {
  return meet(VOTE, mask, mine, lane(), op, site);
}
void sync_warp(unsigned mask, Site site) { meet(SYNC, mask, 0, lane(), "__syncwarp", site); }
void together(void* mine, Work work, const char* op, Site site) {
  meet(WORK, ~0u, (uint64_t)mine, lane(), op, site, work);
}
void trap(Site site) { fail("%s reaches __trap() of %s", thread_name().c_str(), place(site).c_str()); }
}  // namespace emu
