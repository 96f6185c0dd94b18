package matrix;

import io.grpc.Metadata;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** One line of a scenario. */
final class Plan {
    private static final byte[] PING = {0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};

    final String line;
    private final Map<String, String> fields = new HashMap<>();

    Plan(String line) {
        this.line = line;
        for (String field : line.split(" ")) {
            String[] parts = field.split("=", 2);
            fields.put(parts[0], parts.length > 1 ? parts[1] : "");
        }
    }

    String text(String key) {
        return fields.getOrDefault(key, "");
    }

    int number(String key) {
        String text = text(key);
        return text.isEmpty() ? 0 : Integer.parseInt(text);
    }

    /** Reads `3x100,0,1`. */
    List<Integer> sizes(String key) {
        List<Integer> sizes = new ArrayList<>();
        for (String part : text(key).split(",")) {
            if (part.isEmpty() || part.equals("-")) {
                continue;
            }
            int times = part.indexOf('x');
            int count = times < 0 ? 1 : Integer.parseInt(part.substring(0, times));
            for (int i = 0; i < count; i++) {
                sizes.add(Integer.parseInt(part.substring(times + 1)));
            }
        }
        return sizes;
    }

    /** What the server may know of the line: without what stands before `anon=1`. */
    String told() {
        String[] parts = line.split(" anon=1 ", 2);
        return parts[parts.length - 1];
    }

    Metadata metadata(String key) {
        Metadata metadata = new Metadata();
        List<Integer> sizes = sizes(key);
        for (int i = 0; i < sizes.size(); i++) {
            Metadata.Key<String> name = Metadata.Key.of("x-meta-" + i, Metadata.ASCII_STRING_MARSHALLER);
            metadata.put(name, "v".repeat(sizes.get(i)));
        }
        return metadata;
    }

    static byte[] message(int size) {
        byte[] bytes = new byte[size];
        for (int i = 0; i < size; i++) {
            bytes[i] = PING[i % PING.length];
        }
        return bytes;
    }
}
