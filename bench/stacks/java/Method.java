package playground;

import io.grpc.Context;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.RejectedExecutionException;
import java.util.function.DoubleSupplier;

/** What one method does with a call, step by step; the steps' order is that of ../README.md. */
final class Method {
  final Spec.Method spec;

  private final String path;
  private final Misbehaviour misbehaviour;
  private final Work work;
  private final Map<String, Peer> peers;
  private final Map<String, Backend> backends;
  private final DoubleSupplier chance;
  private final ExecutorService threads;
  private final Bytes.Turn responses;
  private final Cache cache;

  Method(
      String path,
      Spec.Method spec,
      Misbehaviour misbehaviour,
      Work work,
      Map<String, Peer> peers,
      Map<String, Backend> backends,
      DoubleSupplier chance,
      ExecutorService threads) {
    this.path = path;
    this.spec = spec;
    this.misbehaviour = misbehaviour;
    this.work = work;
    this.peers = peers;
    this.backends = backends;
    this.chance = chance;
    this.threads = threads;
    responses = new Bytes.Turn(spec.responses);
    cache = spec.cache == null ? null : new Cache(spec.cache, chance);
  }

  /** Answers a call; the status is what it ends with. */
  Status answer(ServedCall call) {
    byte[] request = call.read();
    if (spec.kind == MethodType.CLIENT_STREAMING) {
      while (request != null) {
        request = call.read();
      }
    }
    if (call.isGone()) {
      return Status.CANCELLED;
    }
    Misbehaviour.Injected injected = misbehaviour.strike(path);
    if (injected == null) {
      return serve(call, request);
    }
    if (injected.cut() && answersStream()) {
      send(call, 0, spec.responseMessages / 2);
    }
    return injected.status();
  }

  private Status serve(ServedCall call, byte[] request) {
    try {
      Status status = work(call);
      if (!status.isOk()) {
        return status;
      }
      int sent = spec.kind == MethodType.BIDI_STREAMING ? converse(call, request) : 0;
      send(call, sent, answersStream() ? spec.responseMessages : 1);
      return Status.OK;
    } catch (RuntimeException | Error error) {
      System.err.println(path + ": " + error);
      return Status.INTERNAL.withDescription(Service.firstLine(error));
    } finally {
      misbehaviour.end();
    }
  }

  private boolean answersStream() {
    return spec.kind == MethodType.SERVER_STREAMING || spec.kind == MethodType.BIDI_STREAMING;
  }

  /** Everything between the effects and the answer. */
  private Status work(ServedCall call) {
    if (spec.sleepMs > 0) {
      Bytes.pause(spec.sleepMs * (0.7 + 0.6 * chance.getAsDouble()));
    }
    misbehaviour.walk();
    work.burn(spec.cpuUs);
    work.allocate(spec.allocateBytes);
    if (cache == null) {
      return ask(call);
    }
    int key = cache.draw();
    if (cache.has(key)) {
      return Status.OK;
    }
    Status status = ask(call);
    if (status.isOk()) {
      cache.fill(key);
    }
    return status;
  }

  /** The data operations, then the calls. */
  private Status ask(ServedCall call) {
    for (Spec.Step step : spec.data) {
      if (call.isGone()) {
        return Status.CANCELLED;
      }
      Status status = backends.get(step.backend).run(step);
      if (!status.isOk()) {
        return status;
      }
    }
    return spec.parallel ? callAtOnce(call) : callInTurn(call);
  }

  private Status callInTurn(ServedCall call) {
    for (Spec.Call next : spec.calls) {
      if (call.isGone()) {
        return Status.CANCELLED;
      }
      Status status = make(next);
      if (!status.isOk()) {
        return status;
      }
    }
    return Status.OK;
  }

  /** All are waited for; the first in the list that failed is what counts. */
  private Status callAtOnce(ServedCall call) {
    if (call.isGone()) {
      return Status.CANCELLED;
    }
    List<CompletableFuture<Status>> running = new ArrayList<>();
    for (Spec.Call next : spec.calls) {
      CompletableFuture<Status> ending = new CompletableFuture<>();
      Runnable make = () -> ending.complete(make(next));
      Runnable making = Context.current().wrap(make);
      try {
        threads.execute(making);
      } catch (RejectedExecutionException full) {
        making.run();
      }
      running.add(ending);
    }
    Status first = Status.OK;
    for (CompletableFuture<Status> ending : running) {
      Status status = ending.join();
      first = first.isOk() ? status : first;
    }
    return first;
  }

  /** Makes one call; OK if its failure does not matter. */
  private Status make(Spec.Call call) {
    if (misbehaviour.now().absent.contains(call.peer)) {
      return Status.OK;
    }
    try {
      Status status = peers.get(call.peer).call(call);
      if (status.isOk() || call.optional) {
        return Status.OK;
      }
      String message = status.getDescription() == null ? "" : status.getDescription();
      return Status.fromCode(status.getCode()).withDescription(call.peer + call.path + ": " + message);
    } catch (RuntimeException error) {
      System.err.println(call.peer + call.path + ": " + error);
      return Status.INTERNAL.withDescription(Service.firstLine(error));
    }
  }

  /** Answers each request with one message while there are some to send, and reads to the end; says how many it sent. */
  private int converse(ServedCall call, byte[] first) {
    int sent = 0;
    for (byte[] request = first; request != null; request = call.read()) {
      if (sent < spec.responseMessages) {
        send(call, sent, ++sent);
      }
    }
    return sent;
  }

  /** Sends messages until so many are sent; those of a stream are some time apart. */
  private void send(ServedCall call, int sent, int until) {
    for (int number = sent; number < until && !call.isGone(); number++) {
      if (number > 0) {
        Bytes.pause(spec.gapMs);
      }
      call.write(responses.next());
    }
  }
}
