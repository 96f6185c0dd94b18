package playground;

import java.util.HashMap;
import java.util.Map;
import java.util.function.DoubleSupplier;

/** A map in memory of the keys that were asked for lately: low keys are asked for more often. */
final class Cache {
  private final Spec.Cache spec;
  private final DoubleSupplier chance;

  /** When an entry ends, in System.nanoTime; it has at most as many entries as there are keys. */
  private final Map<Integer, Long> entries = new HashMap<>();

  Cache(Spec.Cache spec, DoubleSupplier chance) {
    this.spec = spec;
    this.chance = chance;
  }

  int draw() {
    return (int) (spec.keys * Math.pow(chance.getAsDouble(), 3));
  }

  synchronized boolean has(int key) {
    Long end = entries.get(key);
    return end != null && System.nanoTime() - end < 0;
  }

  synchronized void fill(int key) {
    entries.put(key, System.nanoTime() + spec.ttlMs * 1_000_000);
  }
}
