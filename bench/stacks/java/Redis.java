package playground;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.function.DoubleSupplier;
import org.apache.commons.pool2.impl.GenericObjectPoolConfig;
import redis.clients.jedis.ClientSetInfoConfig;
import redis.clients.jedis.Connection;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisPooled;

/** GET and SET on a Redis server. */
final class Redis extends Backend {
  private final JedisPooled jedis;

  Redis(String name, String address, DoubleSupplier chance, Lines sent) {
    super(name, chance, sent);
    GenericObjectPoolConfig<Connection> pool = new GenericObjectPoolConfig<>();
    pool.setMaxTotal(MOST_CONNECTIONS);
    pool.setMaxIdle(MOST_CONNECTIONS);
    pool.setMaxWait(Duration.ofMillis(COMMAND_MS));
    pool.setJmxEnabled(false);
    jedis =
        new JedisPooled(
            pool,
            HostAndPort.from(address),
            DefaultJedisClientConfig.builder()
                .timeoutMillis(COMMAND_MS)
                .clientSetInfoConfig(ClientSetInfoConfig.DISABLED)
                .build());
  }

  @Override
  void read(String key) {
    jedis.get(key.getBytes(StandardCharsets.UTF_8));
  }

  @Override
  void write(String key, byte[] value) {
    jedis.set(key.getBytes(StandardCharsets.UTF_8), value);
  }
}
