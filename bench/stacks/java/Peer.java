package playground;

import io.grpc.CallOptions;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Status;
import io.netty.channel.EventLoopGroup;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** One service that this one calls: calls go round-robin over its connections, through its breaker, and again if told so. */
final class Peer {
  private static final Status REFUSED = Status.UNAVAILABLE.withDescription("circuit open");

  private final String name;
  private final Spec.Peer spec;
  private final Misbehaviour misbehaviour;
  private final Lines sent;
  private final EventLoopGroup loops;
  private final Breaker breaker;
  private final Map<String, Bytes.Turn> requests = new ConcurrentHashMap<>();
  private final AtomicInteger turn = new AtomicInteger();
  private volatile List<Link> links = List.of();

  Peer(String name, Spec.Peer spec, Misbehaviour misbehaviour, Lines sent, EventLoopGroup loops) {
    this.name = name;
    this.spec = spec;
    this.misbehaviour = misbehaviour;
    this.sent = sent;
    this.loops = loops;
    breaker = spec.breaker == null ? null : new Breaker(spec.breaker);
    moveTo(spec.addresses);
  }

  /** Calls go to these addresses from now on; connections to addresses that stay are kept. */
  synchronized void moveTo(List<String> addresses) {
    List<Link> old = new ArrayList<>(links);
    List<Link> next = new ArrayList<>();
    for (int connection = 0; connection < spec.connections; connection++) {
      for (String address : addresses) {
        Link kept = old.stream().filter(link -> link.address.equals(address)).findFirst().orElse(null);
        old.remove(kept);
        next.add(kept != null ? kept : new Link(address, spec.authority, loops));
      }
    }
    links = next;
    old.forEach(Link::leave);
  }

  /** One call with its attempts; the last one's status is the call's. */
  Status call(Spec.Call call) {
    Bytes.Turn messages = requests.computeIfAbsent(call.path, path -> new Bytes.Turn(call.requests));
    Deadline deadline = call.deadlineMs > 0 ? Deadline.after(call.deadlineMs, TimeUnit.MILLISECONDS) : null;
    int attempts = call.retries == null ? 1 : Math.max(1, call.retries.attempts);
    for (int attempt = 0; ; attempt++) {
      if (Context.current().isCancelled()) {
        return Status.CANCELLED;
      }
      if (misbehaviour.now().openCircuits.contains(name) || breaker != null && !breaker.admits()) {
        record(call, SentCall.NEVER, REFUSED, -1);
        return REFUSED;
      }
      Status status = attempt(call, messages, deadline, attempt);
      boolean again = call.retries != null && call.retries.on.contains(status.getCode().value());
      if (status.isOk() || !again || attempt + 1 >= attempts) {
        return status;
      }
      double wait = call.retries.backoffMs * (attempt + 1);
      if (deadline != null && deadline.timeRemaining(TimeUnit.NANOSECONDS) <= wait * 1e6) {
        return status;
      }
      Bytes.pause(wait);
    }
  }

  private Status attempt(Spec.Call call, Bytes.Turn messages, Deadline deadline, int attempt) {
    Link link = nextLink();
    if (link == null) {
      Status status = Status.UNAVAILABLE.withDescription("no address");
      record(call, SentCall.NEVER, status, -1);
      return status;
    }
    CallOptions options = CallOptions.DEFAULT.withDeadline(deadline);
    SentCall made = new SentCall(link.channel, call, options);
    Status status = made.run(call, messages, attempt);
    if (breaker != null) {
      breaker.ended(status.getCode());
    }
    record(call, made, status, attempt);
    return status;
  }

  private Link nextLink() {
    List<Link> now = links;
    return now.isEmpty() ? null : now.get(Math.floorMod(turn.getAndIncrement(), now.size()));
  }

  private void record(Spec.Call call, SentCall made, Status status, int attempt) {
    sent.write(
        new Lines.Sent(
            made.startedMs(),
            name,
            call.path,
            status.getCode().name(),
            made.requestBytes(),
            made.responseBytes(),
            made.requestMessages(),
            made.responseMessages(),
            made.seconds(),
            attempt));
  }
}
