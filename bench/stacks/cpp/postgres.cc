// SELECT and INSERT of one row of a PostgreSQL table.
#include <libpq-fe.h>
#include <poll.h>

#include "backend.h"

namespace {

constexpr char SELECT[] = "SELECT value FROM items WHERE key = $1";
constexpr char INSERT[] =
    "INSERT INTO items (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

struct Freeing {
  void operator()(PGconn* connection) const { PQfinish(connection); }
  void operator()(PGresult* result) const { PQclear(result); }
};

using Connection = std::unique_ptr<PGconn, Freeing>;
using Result = std::unique_ptr<PGresult, Freeing>;

// Waits for the result of what was sent; libpq itself would wait for ever.
Result await_result(PGconn* connection) {
  const auto until = Steady::now() + COMMAND_WITHIN;
  while (PQisBusy(connection) != 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Steady::now()).count();
    pollfd answers{PQsocket(connection), POLLIN, 0};
    if (left <= 0 || poll(&answers, 1, static_cast<int>(left)) == 0) throw std::runtime_error("no answer in time");
    if (PQconsumeInput(connection) == 0) throw std::runtime_error(PQerrorMessage(connection));
  }
  return Result(PQgetResult(connection));
}

void execute(PGconn* connection, const char* command, const std::string& key, const std::string* value) {
  const char* const values[] = {key.c_str(), value == nullptr ? nullptr : value->data()};
  const int lengths[] = {0, value == nullptr ? 0 : static_cast<int>(value->size())};
  const int binary[] = {0, 1};
  const int count = value == nullptr ? 1 : 2;
  if (PQsendQueryParams(connection, command, count, nullptr, values, lengths, binary, 1) == 0) {
    throw std::runtime_error(PQerrorMessage(connection));
  }
  while (const Result result = await_result(connection)) {
    const auto status = PQresultStatus(result.get());
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
      throw std::runtime_error(PQresultErrorMessage(result.get()));
    }
  }
}

class Postgres final : public Backend {
 public:
  Postgres(const std::string& name, const Address& address, Chance& chance, Lines& sent)
      : Backend(name, chance, sent), address_(address) {}

 private:
  void read(const std::string& key) override {
    pool_.with([this] { return connect(); }, [&](const Connection& to) { execute(to.get(), SELECT, key, nullptr); });
  }

  void write(const std::string& key, const std::string& value) override {
    pool_.with([this] { return connect(); }, [&](const Connection& to) { execute(to.get(), INSERT, key, &value); });
  }

  Connection connect() {
    const Start start;
    const std::string within = std::to_string(COMMAND_WITHIN.count() / 1'000);
    const char* const names[] = {"host", "port", "dbname", "user", "sslmode", "gssencmode", "connect_timeout", nullptr};
    const char* const values[] = {address_.host.c_str(), address_.port.c_str(), "playground", "playground",
                                  "disable",             "disable",             within.c_str(), nullptr};
    Connection connection(PQconnectdbParams(names, values, 0));
    if (PQstatus(connection.get()) != CONNECTION_OK) throw std::runtime_error(PQerrorMessage(connection.get()));
    connected(start);
    return connection;
  }

  const Address address_;
  Pool<Connection> pool_;
};

}  // namespace

std::unique_ptr<Backend> postgres(const std::string& name, const Address& address, Chance& chance, Lines& sent) {
  return std::make_unique<Postgres>(name, address, chance, sent);
}
