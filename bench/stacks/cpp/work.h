// What a call costs: processor time counted in rounds of a loop, and memory.
#pragma once

#include <cstddef>
#include <cstdint>

class Work {
 public:
  // Measures the loop; the best of several short runs is the undisturbed one.
  Work();

  // Uses so much processor time.
  void burn(int64_t micros) const;

  // Allocates, touches and frees.
  static void allocate(size_t bytes);

  static uint64_t rounds(uint64_t count);

 private:
  double rounds_per_micro_;
};

// Touches each page, so that the memory is really used.
void touch(char* memory, size_t bytes);

constexpr size_t PAGE = 4096;
