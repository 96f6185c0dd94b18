package matrix;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.util.Locale;

/** What one end says of one call. The wire's bytes come from grpc-java's own stream tracers. */
final class Truth {
    int id;
    int attempt;
    String method = "";
    int status;
    int requests;
    long requestBytes;
    int responses;
    long responseBytes;
    long requestWire;
    long responseWire;
    boolean cancelled;
    private boolean written;
    private final long started = System.nanoTime();

    synchronized void request(int size) {
        requests++;
        requestBytes += size;
    }

    synchronized void response(int size) {
        responses++;
        responseBytes += size;
    }

    synchronized void requestWire(long size) {
        requestWire += size;
    }

    synchronized void responseWire(long size) {
        responseWire += size;
    }

    synchronized void write(Writer ledger) {
        if (written) {
            return;
        }
        written = true;
        String line = String.format(
                Locale.ROOT,
                "{\"id\":%d,\"attempt\":%d,\"method\":\"%s\",\"status\":%d,\"requests\":%d,\"request_bytes\":%d,\"responses\":%d,"
                        + "\"response_bytes\":%d,\"request_wire\":%d,\"response_wire\":%d,\"ms\":%.3f,\"cancelled\":%b}\n",
                id, attempt, method, status, requests, requestBytes, responses, responseBytes, requestWire, responseWire,
                (System.nanoTime() - started) / 1e6, cancelled);
        synchronized (ledger) {
            try {
                ledger.write(line);
                ledger.flush();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
