package playground;

import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.ServerCall;
import io.grpc.Status;
import java.util.ArrayDeque;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;

/**
 * One served call: gRPC's events go in on Netty's threads; Method reads and writes messages on a thread of the call's
 * own; its line of truth goes out.
 */
final class ServedCall extends ServerCall.Listener<byte[]> {
  /** The caller's deadline started this much earlier than ours at most, so it may leave before ours has passed. */
  private static final long TRANSIT_MS = 10;

  private final ServerCall<byte[], byte[]> call;
  private final Method method;
  private final Lines truth;
  private final int replica;
  private final ExecutorService threads;
  private final Context context = Context.current();
  private final ArrayDeque<byte[]> received = new ArrayDeque<>();
  private boolean allReceived;
  private boolean begun;

  private long startedMs;
  private long startedNanos;
  private long requestBytes;
  private long responseBytes;
  private int requestMessages;
  private int responseMessages;

  ServedCall(
      ServerCall<byte[], byte[]> call, Method method, Lines truth, int replica, ExecutorService threads) {
    this.call = call;
    this.method = method;
    this.truth = truth;
    this.replica = replica;
    this.threads = threads;
    if (requestsStream()) {
      call.request(1);
      begin();
    } else {
      // A second message would be an error of the caller; gRPC says so only if it is asked for one.
      call.request(2);
    }
  }

  private boolean requestsStream() {
    MethodType kind = method.spec.kind;
    return kind == MethodType.CLIENT_STREAMING || kind == MethodType.BIDI_STREAMING;
  }

  @Override
  public void onMessage(byte[] message) {
    synchronized (this) {
      received.add(message);
      notifyAll();
    }
  }

  @Override
  public void onHalfClose() {
    boolean complete;
    synchronized (this) {
      allReceived = true;
      complete = received.size() == 1;
      notifyAll();
    }
    if (requestsStream()) {
      return;
    }
    if (complete) {
      begin();
    } else {
      call.close(Status.INTERNAL.withDescription("one message was expected"), new Metadata());
    }
  }

  @Override
  public synchronized void onCancel() {
    notifyAll();
  }

  @Override
  public synchronized void onReady() {
    notifyAll();
  }

  private void begin() {
    if (begun) {
      return;
    }
    begun = true;
    startedMs = System.currentTimeMillis();
    startedNanos = System.nanoTime();
    try {
      threads.execute(context.wrap(() -> end(method.answer(this))));
    } catch (RejectedExecutionException full) {
      end(Status.RESOURCE_EXHAUSTED.withDescription("too many calls at once"));
    }
  }

  /** Whether the caller has left. */
  boolean isGone() {
    return call.isCancelled();
  }

  /** The next request message; null after the last one, and when the caller has left. */
  byte[] read() {
    byte[] message;
    synchronized (this) {
      while (received.isEmpty() && !allReceived && !isGone()) {
        pause();
      }
      message = isGone() ? null : received.poll();
    }
    if (message != null) {
      requestBytes += message.length;
      requestMessages++;
      if (requestsStream()) {
        call.request(1);
      }
    }
    return message;
  }

  /** Sends a message when the connection has room for it; false when the caller has left. */
  boolean write(byte[] message) {
    if (responseMessages == 0 && !isGone()) {
      call.sendHeaders(new Metadata());
    }
    synchronized (this) {
      while (!call.isReady() && !isGone()) {
        pause();
      }
    }
    if (isGone()) {
      return false;
    }
    call.sendMessage(message);
    responseBytes += message.length;
    responseMessages++;
    return true;
  }

  private void pause() {
    try {
      wait();
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private void end(Status status) {
    boolean ended = !isGone();
    call.close(status, new Metadata());
    Status.Code code = ended ? status.getCode() : leaving();
    truth.write(
        new Lines.Served(
            startedMs,
            "/" + call.getMethodDescriptor().getFullMethodName(),
            code.name(),
            ended,
            requestBytes,
            responseBytes,
            requestMessages,
            responseMessages,
            (System.nanoTime() - startedNanos) / 1e9,
            replica));
  }

  /** Why the caller left. */
  private Status.Code leaving() {
    Deadline deadline = context.getDeadline();
    boolean late = deadline != null && deadline.timeRemaining(TimeUnit.MILLISECONDS) < TRANSIT_MS;
    return late ? Status.Code.DEADLINE_EXCEEDED : Status.Code.CANCELLED;
  }
}
