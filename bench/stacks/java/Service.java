package playground;

import io.netty.channel.EventLoopGroup;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.util.concurrent.DefaultThreadFactory;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.function.DoubleSupplier;
import java.util.logging.Formatter;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

/**
 * The generic service on grpc-java: a spec comes in on the command line, calls on a port, behaviour on standard input;
 * truth lines go out. ../README.md says what it does. Calls come in through Door, Method answers them, Peer and Backend
 * are whom it asks.
 */
final class Service {
  /** Threads that serve calls, one each, and make parallel ones: more are refused. Stacks are of 256 KiB. */
  private static final int MOST_THREADS = 2_000;

  private final Spec spec;
  private final Lines truth;
  private final Lines sent;
  private final Misbehaviour misbehaviour;
  private final Map<String, Peer> peers = new TreeMap<>();
  private final Door door;

  /** Everything but listening. */
  Service(Spec spec) throws IOException {
    this.spec = spec;
    truth = new Lines(spec.truth);
    sent = new Lines(spec.sent);
    DoubleSupplier chance = new Random(spec.seed)::nextDouble;
    ExecutorService threads =
        new ThreadPoolExecutor(
            0, MOST_THREADS, 10, TimeUnit.SECONDS, new SynchronousQueue<>(), new DefaultThreadFactory("call", true));
    EventLoopGroup loops = new NioEventLoopGroup(2, new DefaultThreadFactory("netty", true));
    misbehaviour = new Misbehaviour(spec, chance);
    spec.peers.forEach((name, peer) -> peers.put(name, new Peer(name, peer, misbehaviour, sent, loops)));
    Map<String, Backend> backends = new TreeMap<>();
    spec.backends.forEach((name, backend) -> backends.put(name, Backend.of(name, backend, chance, sent)));
    Work work = new Work();
    Map<String, Method> methods = new TreeMap<>();
    spec.methods.forEach(
        (path, method) ->
            methods.put(path, new Method(path, method, misbehaviour, work, peers, backends, chance, threads)));
    door = new Door(spec, methods, truth, loops, threads);
  }

  /** Opens the door; calls may come. */
  void open() throws IOException {
    door.open();
  }

  /** Replaces the behaviour before. */
  void become(Behaviour next) {
    misbehaviour.become(next);
    peers.forEach((name, peer) -> peer.moveTo(next.addresses.getOrDefault(name, spec.peers.get(name).addresses)));
  }

  /** Closes the door, waits a second at most, and writes what is left of the truth. */
  void close() {
    door.close();
    truth.flush();
    sent.flush();
  }

  Peer peer(String name) {
    return peers.get(name);
  }

  public static void main(String[] words) {
    logOneLineEach();
    if (words.length != 2 || !words[0].equals("--spec")) {
      System.err.println("usage: --spec FILE");
      System.exit(2);
    }
    Service service = null;
    try {
      service = new Service(Spec.read(Path.of(words[1])));
      service.open();
    } catch (IOException | RuntimeException error) {
      System.err.println(words[1] + ": " + error);
      System.exit(1);
    }
    Service running = service;
    CountDownLatch told = new CountDownLatch(1);
    // SIGTERM runs this hook; only halt can still choose the exit status there.
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  running.close();
                  Runtime.getRuntime().halt(0);
                }));
    Thread listener = new Thread(() -> running.obey(told), "behaviour");
    listener.setDaemon(true);
    listener.start();
    System.out.println("ready");
    try {
      told.await();
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
    System.exit(0);
  }

  /** Follows lines of behaviour until standard input ends. */
  private void obey(CountDownLatch told) {
    try (BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
      for (String line = input.readLine(); line != null; line = input.readLine()) {
        try {
          become(Behaviour.parse(line));
        } catch (RuntimeException error) {
          System.err.println("a command was not understood: " + firstLine(error) + ": " + line);
        }
      }
    } catch (IOException error) {
      System.err.println("standard input: " + error.getMessage());
    }
    told.countDown();
  }

  static String firstLine(Throwable error) {
    String message = error.getMessage() == null ? error.getClass().getSimpleName() : error.getMessage();
    return message.lines().findFirst().orElse(message);
  }

  private static void logOneLineEach() {
    Logger root = Logger.getLogger("");
    root.setLevel(Level.WARNING);
    for (var output : root.getHandlers()) {
      output.setFormatter(
          new Formatter() {
            @Override
            public String format(LogRecord line) {
              String thrown = line.getThrown() == null ? "" : ": " + firstLine(line.getThrown());
              return line.getLoggerName() + ": " + formatMessage(line).replace('\n', ' ') + thrown + "\n";
            }
          });
    }
  }
}
