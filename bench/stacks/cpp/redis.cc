// GET and SET on a Redis server.
#include <hiredis/hiredis.h>

#include "backend.h"

namespace {

struct Freeing {
  void operator()(redisContext* connection) const { redisFree(connection); }
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};

using Connection = std::unique_ptr<redisContext, Freeing>;

class Redis final : public Backend {
 public:
  Redis(const std::string& name, const Address& address, Chance& chance, Lines& sent)
      : Backend(name, chance, sent), address_(address) {}

 private:
  void read(const std::string& key) override {
    run([&](redisContext* to) { return redisCommand(to, "GET %b", key.data(), key.size()); });
  }

  void write(const std::string& key, const std::string& value) override {
    run([&](redisContext* to) {
      return redisCommand(to, "SET %b %b", key.data(), key.size(), value.data(), value.size());
    });
  }

  template <typename Command>
  void run(Command command) {
    pool_.with([this] { return connect(); },
               [&](const Connection& connection) {
                 const std::unique_ptr<redisReply, Freeing> reply(
                     static_cast<redisReply*>(command(connection.get())));
                 if (!reply) throw std::runtime_error(connection->errstr);
                 if (reply->type == REDIS_REPLY_ERROR) throw std::runtime_error(reply->str);
               });
  }

  Connection connect() const {
    const timeval within{COMMAND_WITHIN.count() / 1'000, 0};
    Connection connection(redisConnectWithTimeout(address_.host.c_str(), std::stoi(address_.port), within));
    if (!connection) throw std::runtime_error("out of memory");
    if (connection->err != 0) throw std::runtime_error(connection->errstr);
    redisSetTimeout(connection.get(), within);
    return connection;
  }

  const Address address_;
  Pool<Connection> pool_;
};

}  // namespace

std::unique_ptr<Backend> redis(const std::string& name, const Address& address, Chance& chance, Lines& sent) {
  return std::make_unique<Redis>(name, address, chance, sent);
}
