package playground;

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.time.Duration;
import java.util.function.DoubleSupplier;
import org.apache.commons.pool2.BasePooledObjectFactory;
import org.apache.commons.pool2.PooledObject;
import org.apache.commons.pool2.impl.DefaultPooledObject;
import org.apache.commons.pool2.impl.GenericObjectPool;
import org.apache.commons.pool2.impl.GenericObjectPoolConfig;

/** SELECT and INSERT of one row of a PostgreSQL table. */
final class Postgres extends Backend {
  private static final String SELECT = "SELECT value FROM items WHERE key = ?";
  private static final String INSERT =
      "INSERT INTO items (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

  private final GenericObjectPool<Connection> pool;

  Postgres(String name, String address, DoubleSupplier chance, Lines sent) {
    super(name, chance, sent);
    int seconds = COMMAND_MS / 1_000;
    // Of a server that is new enough the driver asks nothing more once it is connected.
    String url =
        "jdbc:postgresql://%s/playground?user=playground&sslmode=disable&gssEncMode=disable&connectTimeout=%d&socketTimeout=%d&assumeMinServerVersion=12"
            .formatted(address, seconds, seconds);
    GenericObjectPoolConfig<Connection> config = new GenericObjectPoolConfig<>();
    config.setMaxTotal(MOST_CONNECTIONS);
    config.setMaxIdle(MOST_CONNECTIONS);
    config.setMaxWait(Duration.ofMillis(COMMAND_MS));
    config.setJmxEnabled(false);
    pool = new GenericObjectPool<>(new Connecting(url), config);
  }

  @Override
  void read(String key) throws Exception {
    with(SELECT, key, null);
  }

  @Override
  void write(String key, byte[] value) throws Exception {
    with(INSERT, key, value);
  }

  /** A connection whose statement failed is not used again. */
  private void with(String sql, String key, byte[] value) throws Exception {
    Connection connection = pool.borrowObject();
    try {
      run(connection, sql, key, value);
    } catch (SQLException error) {
      pool.invalidateObject(connection);
      throw error;
    }
    pool.returnObject(connection);
  }

  private static void run(Connection connection, String sql, String key, byte[] value) throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      statement.setString(1, key);
      if (value != null) {
        statement.setBytes(2, value);
        statement.executeUpdate();
        return;
      }
      try (ResultSet rows = statement.executeQuery()) {
        while (rows.next()) {
          rows.getBytes(1);
        }
      }
    }
  }

  private final class Connecting extends BasePooledObjectFactory<Connection> {
    private final String url;

    Connecting(String url) {
      this.url = url;
    }

    @Override
    public Connection create() throws SQLException {
      long startedMs = System.currentTimeMillis();
      long started = System.nanoTime();
      Connection connection = DriverManager.getConnection(url);
      connected(startedMs, started);
      return connection;
    }

    @Override
    public PooledObject<Connection> wrap(Connection connection) {
      return new DefaultPooledObject<>(connection);
    }

    @Override
    public void destroyObject(PooledObject<Connection> pooled) throws SQLException {
      pooled.getObject().close();
    }
  }
}
