package playground;

import io.grpc.Status;
import java.util.Arrays;
import java.util.function.DoubleSupplier;

/** A real Redis or PostgreSQL: a data operation goes in, its line of truth and a status go out. */
abstract class Backend {
  /** Connections that are kept at most. */
  static final int MOST_CONNECTIONS = 16;

  /** How long connecting, waiting for a connection, and a command may take, each. */
  static final int COMMAND_MS = 2_000;

  private final String name;
  private final DoubleSupplier chance;
  private final Lines sent;

  Backend(String name, DoubleSupplier chance, Lines sent) {
    this.name = name;
    this.chance = chance;
    this.sent = sent;
  }

  static Backend of(String name, Spec.Backend spec, DoubleSupplier chance, Lines sent) {
    return switch (spec.kind) {
      case "redis" -> new Redis(name, spec.address, chance, sent);
      case "postgres" -> new Postgres(name, spec.address, chance, sent);
      default -> throw new IllegalArgumentException("backend " + name + " is of no known kind: " + spec.kind);
    };
  }

  abstract void read(String key) throws Exception;

  abstract void write(String key, byte[] value) throws Exception;

  /** A line of truth for a connection whose making took a question and an answer on the wire. */
  final void connected(long startedMs, long started) {
    double seconds = (System.nanoTime() - started) / 1e9;
    sent.write(new Lines.Sent(startedMs, name, "CONNECT", Status.OK.getCode().name(), 0, 0, 1, 1, seconds, 0));
  }

  /** Runs one operation; any failure is UNAVAILABLE. */
  final Status run(Spec.Step step) {
    String key = "k" + (int) (chance.getAsDouble() * step.keys);
    boolean writes = step.operation.equals("set");
    long startedMs = System.currentTimeMillis();
    long started = System.nanoTime();
    Status status = Status.OK;
    try {
      if (writes) {
        byte[] value = new byte[step.bytes];
        Arrays.fill(value, (byte) 'x');
        write(key, value);
      } else {
        read(key);
      }
    } catch (Exception error) {
      status = Status.UNAVAILABLE.withDescription(name + ": " + Service.firstLine(error));
    }
    double seconds = (System.nanoTime() - started) / 1e9;
    String method = writes ? "SET" : "GET";
    int bytes = writes ? step.bytes : 0;
    sent.write(new Lines.Sent(startedMs, name, method, status.getCode().name(), bytes, 0, 1, 1, seconds, 0));
    return status;
  }
}
