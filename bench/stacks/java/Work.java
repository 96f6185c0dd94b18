package playground;

/** What a call costs: processor time counted in rounds of a loop, and memory. */
final class Work {
  private static final int SAMPLE = 100_000;

  /** Results go here, so that the compiler cannot leave the work out. */
  private volatile long result;

  private final double roundsPerMicro;

  /** Measures the loop; the best of several short runs is the undisturbed one. */
  Work() {
    // Set-up has this loop compiled before it goes on (-XX:CompileCommand), which takes some runs to begin.
    for (int run = 0; run < 300; run++) {
      result = rounds(1_000);
    }
    long best = Long.MAX_VALUE;
    for (int run = 0; run < 9; run++) {
      long started = System.nanoTime();
      result = rounds(SAMPLE);
      best = Math.min(best, System.nanoTime() - started);
    }
    roundsPerMicro = SAMPLE / Math.max(best / 1e3, 1);
  }

  /** Uses so much processor time. */
  void burn(long micros) {
    if (micros > 0) {
      result = rounds((long) (micros * roundsPerMicro));
    }
  }

  /** Allocates, touches and frees: Java fills new memory with zeros. */
  void allocate(int bytes) {
    if (bytes > 0) {
      byte[] memory = new byte[bytes];
      memory[bytes - 1] = 1;
      result = memory[0] + memory[bytes - 1];
    }
  }

  static long rounds(long count) {
    long mixed = count;
    for (long round = 0; round < count; round++) {
      mixed = mixed * 0x9E3779B97F4A7C15L ^ mixed >>> 29;
    }
    return mixed;
  }
}
