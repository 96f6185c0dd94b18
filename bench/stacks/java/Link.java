package playground;

import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.netty.NettyChannelBuilder;
import io.netty.channel.ChannelOption;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.socket.nio.NioSocketChannel;
import java.util.concurrent.TimeUnit;

/** One HTTP/2 connection to one address; made at the first call, and again when it breaks. */
final class Link {
  private static final int CONNECT_MS = 1_000;
  private static final long FIRST_WAIT_MS = 100;
  private static final long LONGEST_WAIT_MS = 1_000;

  final String address;
  final ManagedChannel channel;

  private final EventLoopGroup loops;

  Link(String address, String authority, EventLoopGroup loops) {
    this.address = address;
    this.loops = loops;
    channel =
        NettyChannelBuilder.forAddress(Address.of(address))
            .overrideAuthority(authority)
            .usePlaintext()
            .eventLoopGroup(loops)
            .channelType(NioSocketChannel.class)
            .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_MS)
            // Events of calls only wake threads, so they need no thread of their own.
            .directExecutor()
            .proxyDetector(target -> null)
            // A hidden attempt would be on the wire and in no line.
            .disableRetry()
            .maxInboundMessageSize(Bytes.MOST)
            .build();
    watch();
  }

  /** Ends the connection when its calls have ended. */
  void leave() {
    channel.shutdown();
  }

  /** Waits for the connection to break. grpc-java's own waits begin at a second and grow to minutes. */
  private void watch() {
    ConnectivityState state = channel.getState(false);
    switch (state) {
      case SHUTDOWN -> {}
      case TRANSIENT_FAILURE -> connectIn(FIRST_WAIT_MS);
      default -> channel.notifyWhenStateChanged(state, this::watch);
    }
  }

  /** Tries again after a time, and after twice that, until the connection is there. */
  private void connectIn(long ms) {
    loops.schedule(
        () -> {
          if (channel.getState(false) != ConnectivityState.TRANSIENT_FAILURE) {
            watch();
            return;
          }
          channel.resetConnectBackoff();
          connectIn(Math.min(2 * ms, LONGEST_WAIT_MS));
        },
        ms,
        TimeUnit.MILLISECONDS);
  }
}
