package playground;

import io.grpc.Status;

/**
 * A circuit breaker: closed, calls pass; after some failures in a row it is open, and calls are refused for a time; then
 * one call is let through, whose success closes it.
 */
final class Breaker {
  private final Spec.Breaker spec;
  private int failures;
  private long openUntil;
  private boolean tries;

  Breaker(Spec.Breaker spec) {
    this.spec = spec;
  }

  synchronized boolean admits() {
    if (failures < spec.failures) {
      return true;
    }
    if (tries || System.nanoTime() - openUntil < 0) {
      return false;
    }
    tries = true;
    return true;
  }

  synchronized void ended(Status.Code code) {
    tries = false;
    switch (code) {
      case OK, INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED -> failures = 0;
      default -> {
        // Calls that were under way when it opened do not keep it open for longer.
        boolean open = failures >= spec.failures && System.nanoTime() - openUntil < 0;
        failures++;
        if (failures >= spec.failures && !open) {
          openUntil = System.nanoTime() + spec.openMs * 1_000_000L;
        }
      }
    }
  }
}
