package matrix;

import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerServiceDefinition;
import io.grpc.ServerStreamTracer;
import io.grpc.Status;
import io.grpc.netty.NettyServerBuilder;
import java.io.Writer;
import java.net.SocketAddress;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.TimeUnit;

/** The server's end: one conversation a call, driven by its listener and a clock. */
final class Server {
    private static final Context.Key<Truth> TRUTH = Context.key("truth");

    private final Writer ledger;

    Server(Writer ledger) {
        this.ledger = ledger;
    }

    /** Listens; lets go of connections after some milliseconds, if those are not zero. */
    void serve(SocketAddress address, long age) throws Exception {
        ServerServiceDefinition.Builder service = ServerServiceDefinition.builder("matrix.Peer");
        for (String method : new String[] {"Unary", "Retried", "ClientStream", "ServerStream", "Bidi"}) {
            ServerCallHandler<byte[], byte[]> handler = (call, headers) -> new Conversation(call, headers, method);
            service.addMethod(Peer.method(method), handler);
        }
        io.grpc.Server server = NettyServerBuilder.forAddress(address)
                .addService(service.build())
                .addStreamTracerFactory(new Tracers())
                .maxInboundMessageSize(Peer.MAX_MESSAGE)
                .maxInboundMetadataSize(Peer.MAX_METADATA)
                .permitKeepAliveTime(1, TimeUnit.MILLISECONDS)
                .permitKeepAliveWithoutCalls(true)
                .keepAliveTime(300, TimeUnit.MILLISECONDS)
                .maxConnectionAge(age == 0 ? Long.MAX_VALUE : age, TimeUnit.MILLISECONDS)
                .build()
                .start();
        System.out.println("ready");
        server.awaitTermination();
    }

    /** Adds up the message bytes of each call as sent. */
    private static final class Tracers extends ServerStreamTracer.Factory {
        @Override
        public ServerStreamTracer newServerStreamTracer(String fullMethodName, Metadata headers) {
            Truth truth = new Truth();
            return new ServerStreamTracer() {
                @Override
                public Context filterContext(Context context) {
                    return context.withValue(TRUTH, truth);
                }

                @Override
                public void inboundWireSize(long bytes) {
                    truth.requestWire(bytes);
                }

                @Override
                public void outboundWireSize(long bytes) {
                    truth.responseWire(bytes);
                }
            };
        }
    }

    private final class Conversation extends ServerCall.Listener<byte[]> {
        private final ServerCall<byte[], byte[]> call;
        private final Plan plan;
        private final Truth truth;
        private final Deque<Integer> responses;
        private final boolean bidi;
        private final boolean early;
        private boolean opened;
        private boolean halfClosed;
        private boolean sending;
        private int owed;
        private boolean over;
        /** What it ends with. */
        private final int status;

        Conversation(ServerCall<byte[], byte[]> call, Metadata headers, String method) {
            this.call = call;
            String line = headers.get(Peer.PLAN);
            plan = new Plan(line == null ? "" : line);
            truth = TRUTH.get();
            truth.id = plan.number("id");
            truth.method = method;
            String attempts = headers.get(Peer.ATTEMPTS);
            truth.attempt = attempts == null ? 0 : Integer.parseInt(attempts);
            status = truth.attempt < plan.number("retry") ? Status.Code.UNAVAILABLE.value() : plan.number("status");
            responses = new ArrayDeque<>(plan.sizes("res"));
            bidi = method.equals("Bidi");
            early = plan.number("early") == 1;
            if (plan.number("gzip") == 1) {
                call.setCompression("gzip");
            }
            if (bidi || early) {
                later("delay", this::open);
            }
            if (!early) {
                call.request(2);
            }
        }

        private void later(String pause, Runnable work) {
            Peer.CLOCK.schedule(
                    () -> {
                        synchronized (this) {
                            if (!over) {
                                work.run();
                            }
                        }
                    },
                    plan.number(pause), TimeUnit.MILLISECONDS);
        }

        @Override
        public synchronized void onMessage(byte[] request) {
            truth.request(request.length);
            owed++;
            call.request(1);
            proceed();
        }

        @Override
        public synchronized void onHalfClose() {
            halfClosed = true;
            if (bidi) {
                proceed();
            } else if (!early) {
                later("delay", this::open);
            }
        }

        private void open() {
            opened = true;
            if (plan.text("rmeta").length() > 1) {
                headers();
            }
            proceed();
        }

        private boolean headersSent;

        private void headers() {
            if (!headersSent) {
                headersSent = true;
                call.sendHeaders(plan.metadata("rmeta"));
            }
        }

        /** Sends what is due: for Bidi one response for one request, else all at the end; then the status. */
        private void proceed() {
            if (!opened || over || sending) {
                return;
            }
            boolean all = halfClosed || early;
            boolean failsWhole = status != 0 && (truth.method.equals("Unary") || truth.method.equals("Retried"));
            if (!responses.isEmpty() && !failsWhole && (all || (bidi && owed > 0))) {
                owed--;
                sending = true;
                boolean first = truth.responses == 0;
                Runnable send = () -> {
                    sending = false;
                    int size = responses.remove();
                    truth.response(size);
                    headers();
                    call.sendMessage(Plan.message(size));
                    proceed();
                };
                if (first || plan.number("gap") == 0) {
                    send.run();
                } else {
                    later("gap", send);
                }
                return;
            }
            if (all) {
                over = true;
                truth.status = status;
                Status ending = Status.fromCodeValue(status);
                if (ending.isOk()) {
                    headers();
                    call.close(ending, plan.metadata("tmeta"));
                } else {
                    call.close(ending.withDescription("asked"), plan.metadata("tmeta"));
                }
            }
        }

        @Override
        public synchronized void onCancel() {
            boolean early = !over;
            over = true;
            truth.cancelled = true;
            if (early) {
                truth.status = Status.Code.CANCELLED.value();
            }
            truth.write(ledger);
        }

        @Override
        public synchronized void onComplete() {
            truth.write(ledger);
        }
    }
}
