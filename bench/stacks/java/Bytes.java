package playground;

import io.grpc.MethodDescriptor;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** Messages are bytes: the codec that changes nothing, and the lists of messages that are sent in turn. */
final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
  /** The longest message that either end takes. */
  static final int MOST = 64 << 20;

  /** The messages of a list, one after the other and then again; an empty list is one of empty messages. */
  static final class Turn {
    private final List<byte[]> messages;
    private final AtomicLong sent = new AtomicLong();

    Turn(List<byte[]> messages) {
      this.messages = messages.isEmpty() ? List.of(new byte[0]) : messages;
    }

    byte[] next() {
      return messages.get((int) (sent.getAndIncrement() % messages.size()));
    }
  }

  static MethodDescriptor<byte[], byte[]> method(String path, MethodDescriptor.MethodType kind) {
    Bytes same = new Bytes();
    return MethodDescriptor.<byte[], byte[]>newBuilder(same, same)
        .setType(kind)
        .setFullMethodName(path.startsWith("/") ? path.substring(1) : path)
        .build();
  }

  /** Sleeps whatever comes: nobody interrupts the threads of calls. */
  static void pause(double ms) {
    if (ms <= 0) {
      return;
    }
    try {
      TimeUnit.NANOSECONDS.sleep((long) (ms * 1e6));
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public InputStream stream(byte[] message) {
    return new ByteArrayInputStream(message);
  }

  @Override
  public byte[] parse(InputStream stream) {
    try {
      return stream.readAllBytes();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
