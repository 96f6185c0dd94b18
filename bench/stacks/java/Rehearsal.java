package playground;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Runs at set-up only: a service that calls itself in every kind, so that the JVM can write the classes which services
 * use into an archive; with it they start in half the time and share the memory.
 */
final class Rehearsal {
  /** Nobody listens there: reaching the backends fails, but loads what they need. */
  private static final String SPEC =
      """
      {"listen": "127.0.0.1:PORT", "truth": "/dev/null", "sent": "/dev/null",
       "backends": {"redis": {"kind": "redis", "address": "127.0.0.1:1"},
                    "postgres": {"kind": "postgres", "address": "127.0.0.1:1"}},
       "peers": {"itself": {"addresses": ["127.0.0.1:PORT"], "authority": "itself:1", "breaker": {"failures": 9}}},
       "methods": {
         "/p.S/All": {"parallel": true, "cache": {}, "calls": [
           {"peer": "itself", "path": "/p.S/Unary", "deadline_ms": 2000},
           {"peer": "itself", "path": "/p.S/Up", "kind": "client-stream", "request_messages": 2},
           {"peer": "itself", "path": "/p.S/Down", "kind": "server-stream"},
           {"peer": "itself", "path": "/p.S/Both", "kind": "bidi-stream", "request_messages": 2},
           {"peer": "itself", "path": "/p.S/Redis", "optional": true, "retries": {"attempts": 2}},
           {"peer": "itself", "path": "/p.S/Postgres", "optional": true}]},
         "/p.S/Unary": {"responses": ["CgF4"], "cpu_us": 10, "sleep_ms": 1, "allocate_bytes": 4096},
         "/p.S/Up": {"kind": "client-stream"},
         "/p.S/Down": {"kind": "server-stream", "response_messages": 2},
         "/p.S/Both": {"kind": "bidi-stream", "response_messages": 3},
         "/p.S/Redis": {"data": [{"backend": "redis", "operation": "get"}]},
         "/p.S/Postgres": {"data": [{"backend": "postgres", "operation": "get"}]}}}
      """;

  private static final int FIRST_PORT = 42_017;
  private static final int PORTS = 50;

  private Rehearsal() {}

  public static void main(String[] words) throws IOException {
    for (int port = FIRST_PORT; port < FIRST_PORT + PORTS; port++) {
      Path path = Files.createTempFile("rehearsal", ".json");
      try {
        Files.writeString(path, SPEC.replace("PORT", Integer.toString(port)));
        if (play(Spec.read(path))) {
          System.exit(0);
        }
      } finally {
        Files.delete(path);
      }
    }
    System.err.println("no port of 127.0.0.1 was free from " + FIRST_PORT);
    System.exit(1);
  }

  /** False when somebody else has the port. */
  private static boolean play(Spec spec) throws IOException {
    Service service = new Service(spec);
    try {
      service.open();
    } catch (IOException taken) {
      return false;
    }
    service.become(Behaviour.parse("{\"effects\": [{\"delay_ms\": 1, \"jitter_ms\": 1}]}"));
    Spec.Call all = new Spec.Call();
    all.path = "/p.S/All";
    var status = service.peer("itself").call(all);
    service.close();
    if (!status.isOk()) {
      System.err.println("the rehearsal failed: " + status);
      System.exit(1);
    }
    return true;
  }
}
