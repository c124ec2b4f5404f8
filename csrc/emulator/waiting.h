// How a CUDA thread waits: behind a gate, a counter that whoever opens it increases.
#pragma once
#include "emulator.h"
#include <vector>

namespace emu {
struct Thread {
  bool done = false;
  const unsigned* gate = nullptr;      // null: free to run
  unsigned gate_was = 0;               // closed as long as *gate has still this value
  const char* op = "";                 // what it waits at, for reports
  Site site{"", 0};
  uint64_t answer = 0;                 // what a shuffle or a vote gave it
};
extern std::vector<Thread> threads;
void wait(const unsigned& gate, const char* op, Site);   // give way until the gate opens
void reset_rendezvous();                                 // a new block: nobody has arrived anywhere
// All 32 lanes of a warp bring a pointer each; the last one to arrive does the work with all of them.
typedef void (*Work)(void* const lanes[32]);
void together(void* mine, Work, const char* op, Site);
void forget_copies();                                    // a new block: no cp.async is under way
void check_copies_are_done();                            // a thread returns
}  // namespace emu
