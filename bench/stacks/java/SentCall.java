package playground;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.TimeUnit;

/** One attempt of a call to a peer: messages go out on the caller's thread, answers are counted on Netty's. */
final class SentCall extends ClientCall.Listener<byte[]> {
  /** A call that was never on a wire. */
  static final SentCall NEVER = new SentCall();

  private static final Metadata.Key<String> PREVIOUS_ATTEMPTS =
      Metadata.Key.of("grpc-previous-rpc-attempts", Metadata.ASCII_STRING_MARSHALLER);

  private final ClientCall<byte[], byte[]> call;
  private final long startedMs = System.currentTimeMillis();
  private final long startedNanos = System.nanoTime();
  private long requestBytes;
  private int requestMessages;
  private long responseBytes;
  private int responseMessages;
  private long endedNanos;
  private Status status;

  private SentCall() {
    call = null;
  }

  /** Its time begins here: the first call of a channel has much to prepare. */
  SentCall(Channel channel, Spec.Call spec, CallOptions options) {
    call = channel.newCall(Bytes.method(spec.path, spec.kind), options);
  }

  /** Makes the call and waits for its end. */
  Status run(Spec.Call spec, Bytes.Turn messages, int attempt) {
    Metadata headers = new Metadata();
    if (attempt > 0) {
      headers.put(PREVIOUS_ATTEMPTS, Integer.toString(attempt));
    }
    call.start(this, headers);
    call.request(1);
    int count = spec.kind.clientSendsOneMessage() ? 1 : spec.requestMessages;
    for (int number = 0; number < count; number++) {
      if (!rest(number == 0 ? 0 : spec.gapMs)) {
        break;
      }
      byte[] message = messages.next();
      call.sendMessage(message);
      requestBytes += message.length;
      requestMessages++;
    }
    call.halfClose();
    return awaitEnd();
  }

  /** Waits so long, and until the connection has room; false when the call has ended. */
  private synchronized boolean rest(double ms) {
    long until = System.nanoTime() + (long) (ms * 1e6);
    // The first message goes out with the headers, before the connection says that it has room.
    boolean needsRoom = requestMessages > 0;
    while (status == null) {
      long left = until - System.nanoTime();
      if (left > 0) {
        pause(left);
      } else if (needsRoom && !call.isReady()) {
        pause(0);
      } else {
        return true;
      }
    }
    return false;
  }

  private synchronized Status awaitEnd() {
    while (status == null) {
      pause(0);
    }
    return status;
  }

  /** Waits for news, so many nanoseconds at most; zero is for ever. */
  private void pause(long nanos) {
    try {
      wait(nanos == 0 ? 0 : TimeUnit.NANOSECONDS.toMillis(nanos) + 1);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void onMessage(byte[] message) {
    synchronized (this) {
      responseBytes += message.length;
      responseMessages++;
    }
    call.request(1);
  }

  @Override
  public synchronized void onReady() {
    notifyAll();
  }

  @Override
  public synchronized void onClose(Status ending, Metadata trailers) {
    status = ending;
    endedNanos = System.nanoTime();
    notifyAll();
  }

  long startedMs() {
    return this == NEVER ? System.currentTimeMillis() : startedMs;
  }

  double seconds() {
    return this == NEVER ? 0 : (endedNanos - startedNanos) / 1e9;
  }

  long requestBytes() {
    return requestBytes;
  }

  int requestMessages() {
    return requestMessages;
  }

  synchronized long responseBytes() {
    return responseBytes;
  }

  synchronized int responseMessages() {
    return responseMessages;
  }
}
