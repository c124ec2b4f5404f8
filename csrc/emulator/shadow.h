// What the checker knows about memory: for each word, who touched it last.
#pragma once
#include "emulator.h"
#include <map>
#include <vector>

namespace emu {
enum Kind : uint8_t { PLAIN, ATOMIC, COPYING };   // COPYING: by a cp.async that nobody has waited for yet
struct Access {
  uint32_t block = 0;                  // Machine::serial of the block, 0 = nobody yet
  uint32_t epoch = 0;                  // how many barriers the block had passed
  uint32_t clock = 0;                  // how many __syncwarps the thread had passed
  uint32_t code = 0;                   // which instruction: its distance from the start of the library
  uint16_t thread = 0;
  uint8_t bytes = 0;                   // which of the word's four bytes: one bit each
  Kind kind = PLAIN;
};
struct Word { Access write, read[2]; };          // the last writer, and two readers since

struct Region {                                  // shared memory, or one tensor
  char *begin = nullptr, *end = nullptr;
  std::string name;
  unsigned bytes_of_one = 4;                     // of an element, for reports
  bool initialised = false, shared = false;
  std::vector<Word> words;
};
struct Variable { size_t offset, bytes; std::string name; };   // a __shared__ variable within shared memory
struct Part { char *begin, *end; std::string name; size_t bytes_of_one; };    // of dynamic shared memory

// reports.cpp: names for people
extern std::vector<Variable> variables;
extern std::map<char*, Region> tensors;          // by end address
extern Region shared_memory;
extern char *library, *library_end;              // where this library's code and constants lie
std::vector<std::string> source_lines(const std::vector<uint32_t>& codes);    // "flash_attention.cu:52"
std::string source_line(uint32_t code);
std::string element(const Region&, const char* address);       // "K[27]"
std::string nearest(const char* address);                      // "4 bytes past the end of K"
void find_library();
void forget_parts();

// counters.cpp
void count(const Region&, const char* address, unsigned bytes, bool write, bool atomic, uint32_t code);
void count_memset(size_t bytes);
void count_barrier();
void count_shuffle();
void count_mma(bool during_copies);
void count_block();

// checker.cpp: every access of a kernel comes here; `counted` is false where another call has counted its
// bytes
void access(const void* address, unsigned bytes, bool write, Kind, const void* return_address,
            bool counted = true);
void aligned_access(const void* address, unsigned bytes, bool write, Kind, const void* return_address);
}  // namespace emu
