package matrix;

import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;

/** The grpc-java (Netty) peer; see ../README.md. {@link Server} and {@link Client} are its two ends. */
final class Peer {
    static final int MAX_MESSAGE = 64 << 20;
    static final int MAX_METADATA = 1 << 20;
    static final Metadata.Key<String> PLAN = Metadata.Key.of("x-plan", Metadata.ASCII_STRING_MARSHALLER);
    static final Metadata.Key<String> TRACE = Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER);
    static final Metadata.Key<String> ATTEMPTS =
            Metadata.Key.of("grpc-previous-rpc-attempts", Metadata.ASCII_STRING_MARSHALLER);
    static final ScheduledExecutorService CLOCK = Executors.newScheduledThreadPool(2, work -> {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        return thread;
    });

    /** Passes messages on as they are. */
    private static final MethodDescriptor.Marshaller<byte[]> RAW = new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] bytes) {
            return new ByteArrayInputStream(bytes);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    };

    private Peer() {}

    static MethodDescriptor<byte[], byte[]> method(String name) {
        MethodDescriptor.MethodType type = switch (name) {
            case "ClientStream" -> MethodDescriptor.MethodType.CLIENT_STREAMING;
            case "ServerStream" -> MethodDescriptor.MethodType.SERVER_STREAMING;
            case "Bidi" -> MethodDescriptor.MethodType.BIDI_STREAMING;
            default -> MethodDescriptor.MethodType.UNARY;
        };
        return MethodDescriptor.newBuilder(RAW, RAW).setType(type).setFullMethodName("matrix.Peer/" + name).build();
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> flags = new HashMap<>();
        for (int i = 1; i + 1 < words.length; i += 2) {
            flags.put(words[i], words[i + 1]);
        }
        try (Writer ledger = Files.newBufferedWriter(Path.of(flags.get("--truth")), StandardCharsets.UTF_8)) {
            if (words[0].equals("server")) {
                InetSocketAddress address =
                        new InetSocketAddress(flags.get("--listen"), Integer.parseInt(flags.get("--port")));
                new Server(ledger).serve(address, Long.parseLong(flags.get("--age")));
            } else {
                new Client(ledger).run(
                        flags.get("--target"), flags.get("--authority"),
                        Files.readAllLines(Path.of(flags.get("--scenario"))));
            }
        }
        System.exit(0);
    }
}
