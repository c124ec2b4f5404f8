// Launches: runs the blocks of a grid one after another, the threads of a block as fibers that take turns.
#include "fibers.h"
#include "waiting.h"
#include <stdarg.h>
#include <stdlib.h>
#include <signal.h>
#include <map>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
alignas(128) thread_local char smem[MAX_SHARED_BYTES];

namespace emu {
Machine machine;
std::vector<Thread> threads;
static std::vector<Fiber> fibers;
static void (*body)(void*);
static void* arguments;
static cudaError_t error;
static std::string message;                       // the sentence of the last error
static std::map<void*, size_t> allowed_bytes;     // kernels that asked for more dynamic shared memory
static std::string launches;                      // a line for each of the last ones

void fail(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  message = std::string(machine.kernel) + ": " + text;
  error = cudaErrorLaunchFailure;
  if (getenv("EMU_STOP")) {                       // for gdb: stop in the guilty thread, its variables at hand
    fprintf(stderr, "%s\n", message.c_str());
    raise(SIGTRAP);
  }
  if (machine.running) {
    machine.running = false;
    fiber_yield(fibers[machine.thread]);          // never resumed
  }
}

std::string thread_name(unsigned t, uint32_t b) {
  char text[128];
  snprintf(text, sizeof text, "thread (%u,%u,%u) of block (%u,%u,%u)", t % blockDim.x,
           t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y, b % gridDim.x, b / gridDim.x % gridDim.y,
           b / gridDim.x / gridDim.y);
  return text;
}
std::string thread_name() { return thread_name(machine.thread, machine.block); }

std::string place(Site site) {
  const char* slash = strrchr(site.file, '/');
  std::string file = slash ? slash + 1 : site.file;
  bool main = file.size() > 3 && file.compare(file.size() - 3, 3, ".cu") == 0;
  return "line " + std::to_string(site.line) + (main || file.empty() ? "" : " of " + file);
}

void wait(const unsigned& gate, const char* op, Site site) {
  Thread& me = threads[machine.thread];
  me.gate = &gate;
  me.gate_was = gate;
  me.op = op;
  me.site = site;
  fiber_yield(fibers[machine.thread]);
  me.gate = nullptr;
}

static void entry() {
  body(arguments);
  check_copies_are_done();
  threads[machine.thread].done = true;
  fiber_yield(fibers[machine.thread]);
}

// Nobody can go on: name one thread that waits, and one that it waits for in vain.
static void report_deadlock() {
  unsigned waiting = 0;
  while (threads[waiting].done) waiting++;
  const Thread& w = threads[waiting];
  std::string text = thread_name(waiting, machine.block) + " waits at " + w.op + " of " + place(w.site);
  bool whole_block = !strcmp(w.op, "__syncthreads");      // a warp operation waits for its warp only
  for (unsigned t = whole_block ? 0 : waiting / 32 * 32; t < machine.threads; t++) {
    const Thread& other = threads[t];
    if (!other.done && other.gate == w.gate) continue;
    text += ", which " + thread_name(t, machine.block) + " can never reach: it ";
    text += other.done ? "has returned" : std::string("waits at ") + other.op + " of " + place(other.site);
    break;
  }
  fail("not all threads reach a barrier: %s", text.c_str());
}

// EMU_ORDER=7 in the environment lets the threads take turns in an order drawn with seed 7.
static void shuffle_turns(std::vector<unsigned>& turn) {
  static uint64_t random = strtoull(getenv("EMU_ORDER"), nullptr, 10);
  for (unsigned i = turn.size(); --i > 0;) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    std::swap(turn[i], turn[(random >> 33) % (i + 1)]);
  }
}

static void run_block(std::vector<unsigned>& turn) {
  reset_rendezvous();
  forget_copies();
  for (unsigned t = 0; t < machine.threads; t++) {
    threads[t] = Thread();
    fiber_start(fibers[t], entry);
  }
  on_block();
  for (unsigned alive = machine.threads; alive > 0;) {
    if (getenv("EMU_ORDER")) shuffle_turns(turn);
    bool progress = false;
    for (unsigned t : turn) {
      if (threads[t].done || (threads[t].gate && *threads[t].gate == threads[t].gate_was)) continue;
      machine.thread = t;
      machine.stack = fibers[t].stack;
      machine.stack_end = fibers[t].stack + STACK_BYTES;
      threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
      progress = machine.running = true;
      fiber_resume(fibers[t]);
      machine.running = false;
      if (error) return;
      alive -= threads[t].done;
    }
    if (!progress) return report_deadlock();
  }
  on_block_end();
}

static const char* bad_launch(const Call& call, size_t threads_in_block) {
  auto asked = allowed_bytes.find(call.kernel);
  if (threads_in_block < 1 || threads_in_block > MAX_THREADS) return "a block has 1 to 1024 threads";
  if (!call.grid.x || !call.grid.y || !call.grid.z) return "a grid has at least one block in each direction";
  if (call.grid.y > 65535 || call.grid.z > 65535) return "a grid has at most 65535 blocks in y and in z";
  if (call.block.z > 64) return "a block has at most 64 threads in z";
  if (call.dynamic_bytes > MAX_SHARED_BYTES) return "a block has at most 227 KB of shared memory";
  if (call.dynamic_bytes > (asked == allowed_bytes.end() ? DEFAULT_SHARED_BYTES : asked->second))
    return "more than 48 KB of dynamic shared memory must be asked for with cudaFuncSetAttribute";
  return nullptr;
}

void run(const Call& call, void (*kernel_body)(void*), void* kernel_arguments) {
  if (machine.running)
    return fail("a kernel cannot launch another one in the emulator: launch from the host");
  if (error == cudaErrorLaunchFailure) return;             // as in CUDA: after a fault nothing runs
  machine.kernel = call.name;
  size_t count = size_t(call.block.x) * call.block.y * call.block.z;
  if (const char* why = bad_launch(call, count)) {
    fail("invalid launch: %s", why);
    error = cudaErrorInvalidConfiguration;
    return;
  }
  if (launches.size() > 4096) launches.clear();
  launches += std::string(call.name) + " " + std::to_string(call.grid.x * call.grid.y * call.grid.z) + " " +
              std::to_string(count) + " " + std::to_string(call.dynamic_bytes) + "\n";
  gridDim = call.grid;
  blockDim = call.block;
  machine.threads = unsigned(count);
  machine.blocks = call.grid.x * call.grid.y * call.grid.z;
  machine.launch_serial = machine.serial + 1;
  machine.dynamic_bytes = call.dynamic_bytes;
  machine.host_frame = (char*)__builtin_frame_address(0);
  body = kernel_body;
  arguments = kernel_arguments;
  if (fibers.size() < count) fibers.resize(count);
  threads.resize(count);
  std::vector<unsigned> turn(count);
  for (unsigned t = 0; t < count; t++) turn[t] = t;
  on_launch();
  for (uint32_t b = 0; b < machine.blocks && !error; b++) {
    machine.block = b;
    machine.serial++;
    blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y};
    run_block(turn);
  }
}

cudaError_t allow_dynamic_bytes(void* kernel, int bytes) {
  if (bytes < 0 || size_t(bytes) > MAX_SHARED_BYTES) return error = cudaErrorInvalidValue;
  allowed_bytes[kernel] = bytes;
  return cudaSuccess;
}
void copy(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }
}  // namespace emu

extern "C" const char* emu_launches() {           // name, blocks, threads, bytes of dynamic shared memory
  static std::string told;
  told.swap(emu::launches);
  emu::launches.clear();
  return told.c_str();
}
extern "C" cudaError_t cudaPeekAtLastError() { return emu::error; }
extern "C" cudaError_t cudaGetLastError() {
  cudaError_t last = emu::error;
  emu::error = cudaSuccess;
  return last;
}
extern "C" const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaSuccess             ? "no error"
         : code == cudaErrorInvalidValue ? "invalid argument"
                                         : emu::message.c_str();
}
extern "C" cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  emu::on_memset((char*)to, bytes);
  if (emu::error) return emu::error;
  memset(to, value, bytes);
  return cudaSuccess;
}
