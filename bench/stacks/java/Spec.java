package playground;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonDeserializer;
import com.google.gson.JsonParseException;
import io.grpc.MethodDescriptor.MethodType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** What the service is told once, field by field as in ../README.md; fields that are left out keep their defaults. */
final class Spec {
  /** Field names are those of the contract: `leakWalks` is `leak_walks`. */
  static final Gson GSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .disableHtmlEscaping()
          .registerTypeAdapter(
              byte[].class,
              (JsonDeserializer<byte[]>) (json, type, context) -> Base64.getDecoder().decode(json.getAsString()))
          .registerTypeAdapter(
              MethodType.class, (JsonDeserializer<MethodType>) (json, type, context) -> kind(json.getAsString()))
          .create();

  String service = "";
  int replica = 0;
  String listen = "";
  String truth = "";
  String sent = "";
  long seed = 0;
  TreeMap<String, Backend> backends = new TreeMap<>();
  TreeMap<String, Peer> peers = new TreeMap<>();
  Map<String, Method> methods = Map.of();

  static final class Backend {
    String kind = "";
    String address = "";
  }

  static final class Peer {
    List<String> addresses = List.of();
    String authority = "";
    int connections = 1;
    Breaker breaker = null;
  }

  static final class Breaker {
    int failures = 5;
    int openMs = 5_000;
  }

  static final class Method {
    MethodType kind = MethodType.UNARY;
    List<byte[]> responses = List.of();
    int responseMessages = 1;
    double gapMs = 0;
    long cpuUs = 0;
    double sleepMs = 0;
    int allocateBytes = 0;
    Cache cache = null;
    List<Step> data = List.of();
    boolean parallel = false;
    List<Call> calls = List.of();
  }

  static final class Cache {
    int keys = 1_000;
    long ttlMs = 60_000;
  }

  static final class Step {
    String backend = "";
    String operation = "get";
    int bytes = 0;
    int keys = 1_000;
  }

  static final class Call {
    String peer = "";
    String path = "";
    MethodType kind = MethodType.UNARY;
    List<byte[]> requests = List.of();
    int requestMessages = 1;
    double gapMs = 0;
    long deadlineMs = 0;
    boolean optional = false;
    Retries retries = null;
  }

  static final class Retries {
    int attempts = 3;
    double backoffMs = 50;
    List<Integer> on = List.of(14);
  }

  static Spec read(Path path) throws IOException {
    Spec spec = GSON.fromJson(Files.readString(path), Spec.class);
    if (spec == null) {
      throw new JsonParseException("the file is empty");
    }
    spec.check();
    return spec;
  }

  /** Names must resolve now, not in the middle of a call. */
  private void check() {
    methods.forEach(
        (path, method) -> {
          for (Call call : method.calls) {
            if (!peers.containsKey(call.peer)) {
              throw new JsonParseException(path + ": peers has no " + call.peer);
            }
          }
          for (Step step : method.data) {
            if (!backends.containsKey(step.backend)) {
              throw new JsonParseException(path + ": backends has no " + step.backend);
            }
          }
        });
    peers.forEach(
        (name, peer) -> {
          if (peer.addresses.isEmpty()) {
            throw new JsonParseException("peer " + name + " has no addresses");
          }
        });
  }

  private static MethodType kind(String name) {
    return switch (name) {
      case "unary" -> MethodType.UNARY;
      case "client-stream" -> MethodType.CLIENT_STREAMING;
      case "server-stream" -> MethodType.SERVER_STREAMING;
      case "bidi-stream" -> MethodType.BIDI_STREAMING;
      default -> throw new JsonParseException("no kind of method: " + name);
    };
  }
}
