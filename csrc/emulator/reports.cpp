// Names for people: which source line, which array, which element.
#include "shadow.h"
#include <link.h>
#include <stdlib.h>
#include <algorithm>
#include <sstream>

namespace emu {
std::vector<Variable> variables;
std::map<char*, Region> tensors;
Region shared_memory;
char *library, *library_end;
static const char* library_path = "";

// The dynamic linker knows where it put this library, and where its thread-local storage (our shared memory) is.
static int look(dl_phdr_info* info, size_t, void*) {
  char *base = (char*)info->dlpi_addr, *begin = (char*)-1, *end = nullptr, *storage = (char*)info->dlpi_tls_data;
  bool mine = false;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& part = info->dlpi_phdr[i];
    if (part.p_type == PT_LOAD) begin = std::min(begin, base + part.p_vaddr), end = std::max(end, base + part.p_vaddr + part.p_memsz);
    if (part.p_type == PT_TLS && storage && storage <= smem && smem < storage + part.p_memsz) {
      mine = true;
      shared_memory.begin = storage;
      shared_memory.end = storage + part.p_memsz;
    }
  }
  if (mine) library = begin, library_end = end, library_path = info->dlpi_name;
  return mine;
}
void find_library() {
  shared_memory.name = "shared memory";
  shared_memory.shared = true;
  smem[0] = 0;                                   // touched, so that this thread has its copy
  dl_iterate_phdr(look, nullptr);
}

// addr2line prints for each address: the address, then pairs of function and file:line, innermost call first.
std::vector<std::string> source_lines(const std::vector<uint32_t>& codes) {
  std::ostringstream command;
  command << "addr2line -aifse '" << library_path << "'" << std::hex;
  for (uint32_t code : codes) command << " 0x" << code;
  std::vector<std::string> lines;
  char text[4096];
  FILE* pipe = popen(command.str().c_str(), "r");
  while (pipe && fgets(text, sizeof text, pipe)) {
    std::string line(text);
    line = line.substr(0, line.find_first_of(" \n"));
    if (line.rfind("0x", 0) == 0) lines.push_back("");
    else if (lines.size() && lines.back().empty() && line.find(".cu:") != std::string::npos) lines.back() = line;
  }
  if (pipe) pclose(pipe);
  lines.resize(codes.size());
  for (auto& line : lines)
    if (line.empty()) line = "an unknown line";
  return lines;
}
std::string source_line(uint32_t code) { return source_lines({code})[0]; }

static const Variable* variable_at(size_t offset) {
  for (const Variable& v : variables)
    if (v.offset <= offset && offset < v.offset + v.bytes) return &v;
  return nullptr;
}
std::string element(const Region& region, const char* address) {
  size_t at = address - region.begin;
  const Variable* v = region.shared ? variable_at(at) : nullptr;
  if (v) at -= v->offset;
  return (v ? v->name : region.name) + "[" + std::to_string(at / 4) + "]";
}

std::string nearest(const char* address) {
  std::string text = "where no tensor and no shared array is";
  long best = 1 << 20;
  auto consider = [&](const char* begin, const char* end, const std::string& name) {
    if (address >= end && address - end < best) best = address - end, text = std::to_string(best) + " bytes past the end of " + name;
    if (address < begin && begin - address < best) best = begin - address, text = std::to_string(best) + " bytes before the start of " + name;
    if (address >= begin && address < end) best = 0, text = "across the end of " + name;
  };
  if (shared_memory.begin <= address && address < shared_memory.end) {
    for (const Variable& v : variables) {
      bool dynamic = v.name == "smem";
      const char* begin = shared_memory.begin + v.offset;
      if (!dynamic || machine.dynamic_bytes) consider(begin, begin + (dynamic ? machine.dynamic_bytes : v.bytes), v.name);
    }
  } else {
    for (auto& [end, region] : tensors) consider(region.begin, region.end, region.name);
  }
  return text.rfind("0 bytes past", 0) == 0 ? "just " + text.substr(8) : text;
}
}  // namespace emu

// ---- the loader (cuda_library.py) says what is where -------------------------------------------------------
extern "C" void emu_shared_variable(size_t offset, size_t bytes, const char* name) { emu::variables.push_back({offset, bytes, name}); }
extern "C" void emu_tensor(char* begin, size_t bytes, const char* name, int initialised) {
  emu::Region region;
  region.begin = begin;
  region.end = begin + bytes;
  region.name = name;
  region.initialised = initialised != 0;
  region.words.resize((bytes + 3) / 4);
  emu::tensors[begin + bytes] = region;
}
extern "C" void emu_forget_tensors() { emu::tensors.clear(); }
