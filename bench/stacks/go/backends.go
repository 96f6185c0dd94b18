// GET and SET on Redis (redigo) and PostgreSQL (pgx). Both keep their connections; neither says more on them than the
// operations, and a line of truth for each connection to PostgreSQL, so that what an observer counts is what the truth
// counts.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// Connections to one backend.
	backendConnections = 16
	// A command may take so long.
	commandTimeout = 2 * time.Second
)

// One of the two.
type backend struct {
	redis    *redis.Pool
	postgres *pgxpool.Pool
}

func newBackend(name string, spec backendSpec, sent *lines) (*backend, error) {
	switch spec.Kind {
	case "redis":
		return &backend{redis: redisPool(spec.Address)}, nil
	case "postgres":
		pool, err := postgresPool(name, spec.Address, sent)
		return &backend{postgres: pool}, err
	}
	return nil, fmt.Errorf("no kind of backend: %q", spec.Kind)
}

func redisPool(address string) *redis.Pool {
	dial := func(ctx context.Context) (redis.Conn, error) {
		return redis.DialContext(ctx, "tcp", address, redis.DialConnectTimeout(commandTimeout),
			redis.DialReadTimeout(commandTimeout), redis.DialWriteTimeout(commandTimeout))
	}
	return &redis.Pool{DialContext: dial, MaxActive: backendConnections, MaxIdle: backendConnections, Wait: true}
}

// A connection that knows since when it is made.
type dialed struct {
	net.Conn
	started time.Time
}

func postgresPool(name, address string, sent *lines) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig("postgres://playground@" + address + "/playground?sslmode=disable")
	if err != nil {
		return nil, err
	}
	config.MaxConns = backendConnections
	config.ConnConfig.ConnectTimeout = commandTimeout
	// A statement is one question on the wire, without one before it that prepares it.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	dialer := net.Dialer{Timeout: commandTimeout}
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		started := time.Now()
		connection, err := dialer.DialContext(ctx, network, address)
		return dialed{Conn: connection, started: started}, err
	}
	config.AfterConnect = func(_ context.Context, connection *pgx.Conn) error {
		if made, known := connection.PgConn().Conn().(dialed); known {
			sent.write(sentLine{
				TMs: made.started.UnixMilli(), Callee: name, Method: "CONNECT", Status: codeName(nil),
				traffic: traffic{RequestMessages: 1, ResponseMessages: 1}, Seconds: time.Since(made.started).Seconds(),
			})
		}
		return nil
	}
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	return pgxpool.NewWithConfig(context.Background(), config)
}

// One operation, with its line of truth.
func (s *service) store(ctx context.Context, step stepSpec) error {
	key := fmt.Sprintf("k%d", int(s.random.unit()*float64(step.Keys)))
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	err := s.backends[step.Backend].run(ctx, step, key)
	if err != nil {
		err = status.Errorf(codes.Unavailable, "%s: %v", step.Backend, err)
	}
	line := sentLine{
		TMs: started.UnixMilli(), Callee: step.Backend, Method: strings.ToUpper(step.Operation), Status: codeName(err),
		traffic: traffic{RequestMessages: 1, ResponseMessages: 1}, Seconds: time.Since(started).Seconds(),
	}
	if step.Operation == "set" {
		line.RequestBytes = step.Bytes
	}
	s.sent.write(line)
	return err
}

func (b *backend) run(ctx context.Context, step stepSpec, key string) error {
	value := func() []byte { return bytes.Repeat([]byte{'v'}, step.Bytes) }
	switch set := step.Operation == "set"; {
	case b.redis != nil && set:
		return b.ask(ctx, "SET", key, value())
	case b.redis != nil:
		return b.ask(ctx, "GET", key)
	case set:
		_, err := b.postgres.Exec(ctx, "INSERT INTO items (key, value) VALUES ($1, $2) "+
			"ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value())
		return err
	default:
		var found []byte
		err := b.postgres.QueryRow(ctx, "SELECT value FROM items WHERE key = $1", key).Scan(&found)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	}
}

func (b *backend) ask(ctx context.Context, command string, arguments ...any) error {
	connection, err := b.redis.GetContext(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = redis.DoContext(connection, ctx, command, arguments...)
	return err
}
