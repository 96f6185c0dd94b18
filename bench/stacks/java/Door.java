package playground;

import io.grpc.HandlerRegistry;
import io.grpc.Server;
import io.grpc.ServerMethodDefinition;
import io.grpc.netty.NettyServerBuilder;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import java.io.IOException;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.TimeUnit;

/** The listening end: each path of the spec becomes a method without generated code. What is done with a call: ServedCall. */
final class Door {
  private static final long LAST_CALLS_MS = 1_000;

  private final Server server;

  Door(Spec spec, Map<String, Method> methods, Lines truth, EventLoopGroup loops, ExecutorService threads) {
    Map<String, ServerMethodDefinition<byte[], byte[]>> served = new HashMap<>();
    methods.forEach(
        (path, method) ->
            served.put(
                path.substring(1),
                ServerMethodDefinition.create(
                    Bytes.method(path, method.spec.kind),
                    (call, headers) -> new ServedCall(call, method, truth, spec.replica, threads))));
    server =
        NettyServerBuilder.forAddress(Address.of(spec.listen))
            .bossEventLoopGroup(loops)
            .workerEventLoopGroup(loops)
            .channelType(NioServerSocketChannel.class)
            // Events of calls only wake threads, so they need no thread of their own.
            .directExecutor()
            .maxInboundMessageSize(Bytes.MOST)
            .fallbackHandlerRegistry(
                new HandlerRegistry() {
                  @Override
                  public ServerMethodDefinition<?, ?> lookupMethod(String name, String authority) {
                    return served.get(name);
                  }
                })
            .build();
  }

  void open() throws IOException {
    server.start();
  }

  void close() {
    server.shutdown();
    try {
      server.awaitTermination(LAST_CALLS_MS, TimeUnit.MILLISECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }
}
