// How work is done.
#include "work.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "chance.h"

namespace {

constexpr uint64_t SAMPLE = 100'000;

// Keeps a result, so that the compiler cannot leave the work out.
void keep(uint64_t result) { asm volatile("" : : "r"(result) : "memory"); }

}  // namespace

uint64_t Work::rounds(uint64_t count) {
  uint64_t mixed = count;
  for (uint64_t round = 0; round < count; round++) mixed = (mixed * 0x9E3779B97F4A7C15u) ^ (mixed >> 29);
  return mixed;
}

Work::Work() {
  double best = std::numeric_limits<double>::max();
  for (int run = 0; run < 9; run++) {
    const Start start;
    keep(rounds(SAMPLE));
    best = std::min(best, start.seconds() * 1e6);
  }
  rounds_per_micro_ = SAMPLE / std::max(best, 1.0);
}

void Work::burn(int64_t micros) const {
  if (micros > 0) keep(rounds(static_cast<uint64_t>(static_cast<double>(micros) * rounds_per_micro_)));
}

void Work::allocate(size_t bytes) {
  if (bytes == 0) return;
  const std::unique_ptr<char[]> memory(new char[bytes]);
  touch(memory.get(), bytes);
}

void touch(char* memory, size_t bytes) {
  volatile char* touched = memory;
  for (size_t at = 0; at < bytes; at += PAGE) touched[at] = 1;
}
