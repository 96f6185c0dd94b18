package playground;

import java.net.InetSocketAddress;

/** `host:port`; an IPv6 host stands in brackets. */
final class Address {
  private Address() {}

  static InetSocketAddress of(String text) {
    int colon = text.lastIndexOf(':');
    if (colon < 0) {
      throw new IllegalArgumentException("no port in the address " + text);
    }
    String host = text.substring(0, colon).replace("[", "").replace("]", "");
    return new InetSocketAddress(host, Integer.parseInt(text.substring(colon + 1)));
  }
}
