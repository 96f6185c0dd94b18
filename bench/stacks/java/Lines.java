package playground;

import java.io.ByteArrayOutputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** A file of JSON lines that many threads write; a line is visible 0.1 s later, and only whole. */
final class Lines {
  private final FileOutputStream file;
  private final ByteArrayOutputStream waiting = new ByteArrayOutputStream();

  /** A call that was served. */
  record Served(
      long tMs,
      String method,
      String status,
      boolean ended,
      long requestBytes,
      long responseBytes,
      int requestMessages,
      int responseMessages,
      double seconds,
      int replica) {}

  /** A call or a data operation that was made. */
  record Sent(
      long tMs,
      String callee,
      String method,
      String status,
      long requestBytes,
      long responseBytes,
      int requestMessages,
      int responseMessages,
      double seconds,
      int attempt) {}

  Lines(String path) throws IOException {
    file = new FileOutputStream(path, true);
    Thread writer =
        new Thread(
            () -> {
              while (true) {
                Bytes.pause(100);
                flush();
              }
            },
            "lines");
    writer.setDaemon(true);
    writer.start();
  }

  void write(Record line) {
    byte[] text = (Spec.GSON.toJson(line) + "\n").getBytes(StandardCharsets.UTF_8);
    synchronized (this) {
      waiting.write(text, 0, text.length);
    }
  }

  synchronized void flush() {
    if (waiting.size() == 0) {
      return;
    }
    try {
      // One write of whole lines at the end of the file.
      file.write(waiting.toByteArray());
    } catch (IOException error) {
      System.err.println("truth cannot be written: " + error.getMessage());
    }
    waiting.reset();
  }
}
