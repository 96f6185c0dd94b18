package playground;

import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Memory that grows. It lies outside the heap, as leaked buffers of a network library do: the heap has a bound of its
 * own, and would end the process before its cgroup does.
 */
final class LeakedMemory {
  private static final int PAGE = 4_096;
  private static final int STEPS_PER_SECOND = 10;

  private final CopyOnWriteArrayList<ByteBuffer> pieces = new CopyOnWriteArrayList<>();
  private final ReentrantLock walking = new ReentrantLock();
  private long bytesPerSecond;
  private long limit;
  private boolean grows;
  private long restUntil = System.nanoTime();

  /** Sums go here, so that the compiler cannot leave the reading out. */
  private volatile long result;

  /** Leaks so fast from now on; zero frees what leaked. */
  synchronized void become(long nextBytesPerSecond, long nextLimit) {
    bytesPerSecond = nextBytesPerSecond;
    limit = nextLimit;
    if (bytesPerSecond > 0 && !grows) {
      grows = true;
      Thread grower = new Thread(this::grow, "leak");
      grower.setDaemon(true);
      grower.start();
    }
    if (bytesPerSecond == 0 && !pieces.isEmpty()) {
      pieces.clear();
      // Buffers outside the heap are freed when the collector finds them gone.
      System.gc();
    }
  }

  private void grow() {
    while (step()) {
      Bytes.pause(1_000.0 / STEPS_PER_SECOND);
    }
  }

  /** Leaks one piece; false when there is nothing to leak any more. */
  private synchronized boolean step() {
    if (bytesPerSecond == 0) {
      grows = false;
      return false;
    }
    long leaked = 0;
    for (ByteBuffer piece : pieces) {
      leaked += piece.capacity();
    }
    long bytes = Math.min(bytesPerSecond / STEPS_PER_SECOND, Integer.MAX_VALUE);
    if (bytes > 0 && leaked + bytes <= limit) {
      // It comes filled with zeros, so every page is touched.
      pieces.add(ByteBuffer.allocateDirect((int) bytes));
    }
    return true;
  }

  /** Reads one byte of each page so many times; all walks together take half of the time at most. */
  void walk(int times) {
    if (times == 0 || pieces.isEmpty() || !walking.tryLock()) {
      return;
    }
    try {
      long started = System.nanoTime();
      if (started - restUntil < 0) {
        return;
      }
      result = sum(List.copyOf(pieces), times);
      long ended = System.nanoTime();
      restUntil = ended + (ended - started);
    } finally {
      walking.unlock();
    }
  }

  private static long sum(List<ByteBuffer> pieces, int times) {
    long sum = 0;
    for (int walk = 0; walk < times; walk++) {
      for (ByteBuffer piece : pieces) {
        for (int at = 0; at < piece.capacity(); at += PAGE) {
          sum += piece.get(at);
        }
      }
    }
    return sum;
  }
}
