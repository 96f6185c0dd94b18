package playground;

import java.util.List;
import java.util.Map;
import java.util.Set;

/** How the service misbehaves, field by field as in ../README.md. Who does it: Misbehaviour. */
final class Behaviour {
  List<Effect> effects = List.of();
  long leakBytesPerSecond = 0;
  long leakLimitBytes = 0;
  int leakWalks = 0;
  int spinThreads = 0;
  double leakConnectionsPerSecond = 0;
  Set<String> openCircuits = Set.of();
  Map<String, List<String>> addresses = Map.of();
  Set<String> absent = Set.of();

  static final class Effect {
    String method = null;
    double fraction = 1;
    double delayMs = 0;
    double jitterMs = 0;
    double lockMs = 0;
    int maxInFlight = 0;
    int status = 0;
    boolean cut = false;
  }

  static Behaviour parse(String line) {
    Behaviour behaviour = Spec.GSON.fromJson(line, Behaviour.class);
    return behaviour == null ? new Behaviour() : behaviour;
  }
}
