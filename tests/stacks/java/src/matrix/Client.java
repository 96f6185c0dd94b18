package matrix;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ClientStreamTracer;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.netty.NettyChannelBuilder;
import java.io.IOException;
import java.io.Writer;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** The client's end: the groups of a scenario one after the other, the calls of one at the same time. */
final class Client {
    /** Which method is tried again, and when. */
    private static final Map<String, ?> RETRIES = Map.of("methodConfig", List.of(Map.of(
            "name", List.of(Map.of("service", "matrix.Peer", "method", "Retried")),
            "retryPolicy", Map.of(
                    "maxAttempts", 5.0, "initialBackoff", "0.01s", "maxBackoff", "0.02s", "backoffMultiplier", 1.0,
                    "retryableStatusCodes", List.of("UNAVAILABLE")))));

    private final Writer ledger;

    Client(Writer ledger) {
        this.ledger = ledger;
    }

    void run(String target, String authority, List<String> lines) throws InterruptedException, IOException {
        int colon = target.lastIndexOf(':');
        ManagedChannel channel = NettyChannelBuilder
                .forAddress(target.substring(0, colon), Integer.parseInt(target.substring(colon + 1)))
                .usePlaintext()
                .overrideAuthority(authority)
                .defaultServiceConfig(RETRIES)
                .enableRetry()
                .maxInboundMessageSize(Peer.MAX_MESSAGE)
                .maxInboundMetadataSize(Peer.MAX_METADATA)
                // grpc-java allows no keep-alive more often than every ten seconds.
                .keepAliveTime(10, TimeUnit.SECONDS)
                .build();
        List<Plan> plans = lines.stream().filter(line -> !line.isBlank()).map(Plan::new).toList();
        for (int i = 0; i < plans.size();) {
            String group = plans.get(i).text("group");
            List<Plan> together =
                    plans.subList(i, plans.size()).stream().filter(plan -> plan.text("group").equals(group)).toList();
            if (together.get(0).number("await") == 1) {
                System.out.println("waiting");
                System.in.read();
            }
            CountDownLatch running = new CountDownLatch(together.size());
            for (Plan plan : together) {
                new Call(plan, running).start(channel);
            }
            running.await();
            i += together.size();
        }
        channel.shutdownNow().awaitTermination(2, TimeUnit.SECONDS);
    }

    private final class Call extends ClientCall.Listener<byte[]> {
        private final Plan plan;
        private final CountDownLatch running;
        private final Truth truth = new Truth();
        private final Deque<Integer> requests;
        private ClientCall<byte[], byte[]> call;
        private boolean over;

        Call(Plan plan, CountDownLatch running) {
            this.plan = plan;
            this.running = running;
            requests = new ArrayDeque<>(plan.sizes("req"));
            truth.id = plan.number("id");
            truth.method = plan.text("method");
        }

        void start(ManagedChannel channel) {
            CallOptions options = CallOptions.DEFAULT.withStreamTracerFactory(new ClientStreamTracer.Factory() {
                @Override
                public ClientStreamTracer newClientStreamTracer(ClientStreamTracer.StreamInfo stream, Metadata headers) {
                    return new ClientStreamTracer() {
                        @Override
                        public void outboundWireSize(long bytes) {
                            truth.requestWire(bytes);
                        }

                        @Override
                        public void inboundWireSize(long bytes) {
                            truth.responseWire(bytes);
                        }
                    };
                }
            });
            if (plan.number("deadline") > 0) {
                options = options.withDeadlineAfter(plan.number("deadline"), TimeUnit.MILLISECONDS);
            }
            if (plan.number("gzip") == 1) {
                options = options.withCompression("gzip");
            }
            call = channel.newCall(Peer.method(truth.method), options);
            Metadata metadata = plan.metadata("meta");
            metadata.put(Peer.PLAN, plan.told());
            if (!plan.text("trace").isEmpty()) {
                metadata.put(Peer.TRACE, plan.text("trace"));
            }
            call.start(this, metadata);
            call.request(Integer.MAX_VALUE);
            if (plan.number("cancel") > 0) {
                Peer.CLOCK.schedule(
                        () -> call.cancel("the plan says so", null), plan.number("cancel"), TimeUnit.MILLISECONDS);
            }
            send();
        }

        private synchronized void send() {
            while (!over && !requests.isEmpty()) {
                int size = requests.remove();
                truth.request(size);
                call.sendMessage(Plan.message(size));
                if (plan.number("cgap") > 0 && !requests.isEmpty()) {
                    Peer.CLOCK.schedule(this::send, plan.number("cgap"), TimeUnit.MILLISECONDS);
                    return;
                }
            }
            if (!over) {
                call.halfClose();
            }
        }

        @Override
        public void onMessage(byte[] response) {
            truth.response(response.length);
        }

        @Override
        public synchronized void onClose(Status status, Metadata trailers) {
            over = true;
            truth.status = status.getCode().value();
            truth.cancelled = plan.number("cancel") > 0 && truth.status == Status.Code.CANCELLED.value();
            truth.write(ledger);
            running.countDown();
        }
    }
}
