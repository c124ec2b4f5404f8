// What the paper's argument is about: bytes to and from global memory; and, for one block in the middle of a
// launch, what each source line asks of the memory: bank conflicts in shared memory, 32-byte sectors in global.
#include "shadow.h"
#include <array>
#include <unordered_map>
#include <set>

namespace emu {
enum { GLOBAL_READ, GLOBAL_WRITE, GLOBAL_ATOMIC, SHARED_READ, SHARED_WRITE, BARRIERS, SHUFFLES, COUNTERS };
static uint64_t counters[COUNTERS];
static bool profiling;                 // only when asked for: it costs memory and time

// The nth time that a lane executes an instruction belongs to the nth request of its warp, as if the lanes ran
// in lockstep. A lane's address is kept as an offset from the start of the region.
constexpr uint32_t ABSENT = ~0u;
struct Instruction {
  bool shared, write;
  unsigned bytes;
  std::vector<std::array<uint32_t, 32>> requests[MAX_THREADS / 32];   // of each warp
  uint32_t times[MAX_THREADS] = {};
};
static std::unordered_map<uint32_t, Instruction> instructions;

static void record(const Region& region, const char* address, unsigned bytes, bool write, uint32_t code) {
  Instruction& in = instructions[code];
  in.shared = region.shared;
  in.write = write;
  in.bytes = bytes;
  auto& requests = in.requests[machine.thread / 32];
  uint32_t n = in.times[machine.thread]++;
  if (requests.size() <= n) {
    requests.emplace_back();
    requests.back().fill(ABSENT);
  }
  requests[n][machine.thread % 32] = uint32_t(address - region.begin);
}

void count(const Region& region, const char* address, unsigned bytes, bool write, bool atomic, uint32_t code) {
  counters[region.shared ? (write ? SHARED_WRITE : SHARED_READ) : atomic ? GLOBAL_ATOMIC : write ? GLOBAL_WRITE : GLOBAL_READ] += bytes;
  if (profiling && machine.block == machine.blocks / 2) record(region, address, bytes, write, code);
}
void count_memset(size_t bytes) { counters[GLOBAL_WRITE] += bytes; }
void count_barrier() { counters[BARRIERS]++; }
void count_shuffle() { counters[SHUFFLES]++; }
void count_launch() {
  for (auto& [code, in] : instructions)          // a new launch begins new requests
    for (unsigned t = 0; t < MAX_THREADS; t++) in.times[t] = uint32_t(in.requests[t / 32].size());
}

// 32 banks, 4 bytes wide: different words of one bank take turns. Wide accesses go in 2 (or 4) parts of 16 (or 8) lanes.
static unsigned bank_passes(const std::array<uint32_t, 32>& offsets, unsigned bytes) {
  unsigned parts = bytes > 4 ? bytes / 4 : 1, passes = 0;
  for (unsigned part = 0; part < parts; part++) {
    std::set<uint32_t> words[32];
    size_t worst = 0;
    for (unsigned lane = part * 32 / parts; lane < (part + 1) * 32 / parts; lane++)
      for (unsigned i = 0; offsets[lane] != ABSENT && i < (bytes + 3) / 4; i++) words[(offsets[lane] / 4 + i) % 32].insert(offsets[lane] / 4 + i);
    for (auto& bank : words) worst = bank.size() > worst ? bank.size() : worst;
    passes += unsigned(worst);
  }
  return passes;
}
static unsigned sectors(const std::array<uint32_t, 32>& offsets) {
  std::set<uint32_t> touched;
  for (uint32_t offset : offsets)
    if (offset != ABSENT) touched.insert(offset / 32);
  return unsigned(touched.size());
}
static unsigned least(const std::array<uint32_t, 32>& offsets, bool shared, unsigned bytes) {   // if perfectly laid out
  std::set<uint32_t> different(offsets.begin(), offsets.end());
  different.erase(ABSENT);
  unsigned moved = unsigned(different.size()) * bytes;
  return shared ? (moved + 127) / 128 : (moved + 31) / 32;
}
}  // namespace emu

using namespace emu;
extern "C" void emu_reset_counters(int with_profile) {
  memset(counters, 0, sizeof counters);
  instructions.clear();
  profiling = with_profile;
}
extern "C" void emu_counters(uint64_t* out) { memcpy(out, counters, sizeof counters); }
// One line of text per instruction: source line, space, access, requests, cost, least possible cost.
extern "C" const char* emu_profile() {
  static std::string text;
  text.clear();
  std::vector<uint32_t> codes;
  for (auto& [code, in] : instructions) codes.push_back(code);
  auto lines = source_lines(codes);
  for (size_t i = 0; i < codes.size(); i++) {
    const Instruction& in = instructions[codes[i]];
    uint64_t requests = 0, cost = 0, ideal = 0;
    for (auto& of_warp : in.requests)
      for (auto& offsets : of_warp) {
        requests++;
        cost += in.shared ? bank_passes(offsets, in.bytes) : sectors(offsets);
        ideal += least(offsets, in.shared, in.bytes);
      }
    text += lines[i] + (in.shared ? " shared " : " global ") + (in.write ? "write " : "read ") + std::to_string(requests) + " " +
            std::to_string(cost) + " " + std::to_string(ideal) + "\n";
  }
  return text.c_str();
}
