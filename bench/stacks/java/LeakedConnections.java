package playground;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;

/** TCP connections that are opened to the first backend, else to the first peer, and forgotten. */
final class LeakedConnections {
  /** More would use up the ports of the machine, and other services would suffer for it. */
  private static final int MOST = 5_000;

  private static final int STEPS_PER_SECOND = 10;
  private static final int CONNECT_MS = 1_000;

  private final InetSocketAddress target;
  private final List<Socket> open = new ArrayList<>();
  private double perSecond;
  private double owed;
  private boolean grows;

  LeakedConnections(Spec spec) {
    target =
        !spec.backends.isEmpty()
            ? Address.of(spec.backends.firstEntry().getValue().address)
            : spec.peers.isEmpty() ? null : Address.of(spec.peers.firstEntry().getValue().addresses.get(0));
  }

  /** Opens so many a second from now on; zero closes them. */
  synchronized void become(double nextPerSecond) {
    perSecond = target == null ? 0 : nextPerSecond;
    if (perSecond > 0 && !grows) {
      grows = true;
      Thread opener = new Thread(this::grow, "connections");
      opener.setDaemon(true);
      opener.start();
    }
    if (perSecond == 0) {
      owed = 0;
      open.forEach(LeakedConnections::close);
      open.clear();
    }
  }

  private void grow() {
    for (int due = due(); due >= 0; due = due()) {
      for (; due > 0; due--) {
        connect();
      }
      Bytes.pause(1_000.0 / STEPS_PER_SECOND);
    }
  }

  /** How many to open in this step; negative when it is over. */
  private synchronized int due() {
    if (perSecond == 0) {
      grows = false;
      return -1;
    }
    owed += perSecond / STEPS_PER_SECOND;
    int whole = (int) owed;
    owed -= whole;
    return Math.max(0, Math.min(whole, MOST - open.size()));
  }

  private void connect() {
    Socket socket = new Socket();
    try {
      socket.connect(target, CONNECT_MS);
    } catch (IOException refused) {
      close(socket);
      return;
    }
    synchronized (this) {
      if (perSecond > 0) {
        open.add(socket);
      } else {
        close(socket);
      }
    }
  }

  private static void close(Socket socket) {
    try {
      socket.close();
    } catch (IOException gone) {
      // It is closed all the same.
    }
  }
}
