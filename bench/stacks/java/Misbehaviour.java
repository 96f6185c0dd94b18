package playground;

import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.DoubleSupplier;

/** Does what a Behaviour says: its effects on each call; leaks are in Leak, circuits in Peer. */
final class Misbehaviour {
  private final DoubleSupplier chance;
  private final LeakedMemory memory = new LeakedMemory();
  private final LeakedConnections connections;
  private final ReentrantLock lock = new ReentrantLock(true);
  private final AtomicInteger atWork = new AtomicInteger();
  private final List<Spinner> spinners = new ArrayList<>();
  private volatile Behaviour now = new Behaviour();

  /** Which status a call ends with, and whether half of its messages go out before. */
  record Injected(Status status, boolean cut) {}

  Misbehaviour(Spec spec, DoubleSupplier chance) {
    this.chance = chance;
    connections = new LeakedConnections(spec);
  }

  Behaviour now() {
    return now;
  }

  synchronized void become(Behaviour next) {
    now = next;
    memory.become(next.leakBytesPerSecond, next.leakLimitBytes);
    connections.become(next.leakConnectionsPerSecond);
    while (spinners.size() < next.spinThreads) {
      spinners.add(new Spinner());
    }
    while (spinners.size() > next.spinThreads) {
      spinners.remove(spinners.size() - 1).spins = false;
    }
  }

  /** Tries each effect on a call; null lets the call go on: it is at work from here to `end`. */
  Injected strike(String method) {
    boolean counted = false;
    for (Behaviour.Effect effect : now.effects) {
      boolean meant = effect.method == null || effect.method.equals(method);
      if (!meant || effect.fraction < 1 && chance.getAsDouble() >= effect.fraction) {
        continue;
      }
      double jitter = effect.jitterMs > 0 ? -effect.jitterMs * Math.log(1 - chance.getAsDouble()) : 0;
      Bytes.pause(effect.delayMs + jitter);
      if (effect.lockMs > 0) {
        lock.lock();
        try {
          Bytes.pause(effect.lockMs);
        } finally {
          lock.unlock();
        }
      }
      if (effect.status == 0) {
        continue;
      }
      if (effect.maxInFlight > 0 && (counted || countUpTo(effect.maxInFlight))) {
        counted = true;
        continue;
      }
      if (counted) {
        end();
      }
      return new Injected(Status.fromCodeValue(effect.status).withDescription("injected"), effect.cut);
    }
    if (!counted) {
      atWork.incrementAndGet();
    }
    return null;
  }

  /** Takes a place among so many calls at work; false when there is none. Calls that are refused take none. */
  private boolean countUpTo(int most) {
    return atWork.getAndUpdate(calls -> calls < most ? calls + 1 : calls) < most;
  }

  void end() {
    atWork.decrementAndGet();
  }

  /** Reads what leaked, as often as the behaviour says. */
  void walk() {
    memory.walk(now.leakWalks);
  }

  /** A thread that only uses the processor. */
  private static final class Spinner extends Thread {
    volatile boolean spins = true;
    volatile long result;

    Spinner() {
      super("spinner");
      setDaemon(true);
      start();
    }

    @Override
    public void run() {
      while (spins) {
        result = Work.rounds(10_000);
      }
    }
  }
}
