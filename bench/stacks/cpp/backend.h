// A real Redis or PostgreSQL: a data operation goes in, its line of truth and a status go out.
#pragma once

#include <grpcpp/support/status.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "chance.h"
#include "lines.h"
#include "spec.h"

// How long connecting, waiting for a connection, and a command may take, each.
constexpr std::chrono::milliseconds COMMAND_WITHIN(2'000);

class Backend {
 public:
  static std::unique_ptr<Backend> of(const std::string& name, const BackendSpec& spec, Chance& chance, Lines& sent);

  virtual ~Backend() = default;

  // Runs one operation; any failure is UNAVAILABLE.
  grpc::Status run(const StepSpec& step);

 protected:
  // A line of truth for a connection whose making took a question and an answer on the wire.
  void connected(const Start& start);

  Backend(std::string name, Chance& chance, Lines& sent) : name_(std::move(name)), chance_(chance), sent_(sent) {}

 private:
  // Both throw an error that says what went wrong.
  virtual void read(const std::string& key) = 0;
  virtual void write(const std::string& key, const std::string& value) = 0;

  const std::string name_;
  Chance& chance_;
  Lines& sent_;
};

std::unique_ptr<Backend> redis(const std::string& name, const Address& address, Chance& chance, Lines& sent);
std::unique_ptr<Backend> postgres(const std::string& name, const Address& address, Chance& chance, Lines& sent);

// Connections that are kept and lent; one that failed is dropped, and made again when it is needed.
template <typename Connection>
class Pool {
 public:
  // Connects if no connection is free; `use` throws when the connection failed.
  template <typename Connect, typename Use>
  void with(Connect connect, Use use) {
    Connection connection = borrow();
    try {
      if (!connection) connection = connect();
      use(connection);
    } catch (...) {
      give_back(nullptr);
      throw;
    }
    give_back(std::move(connection));
  }

 private:
  static constexpr size_t MOST = 16;

  // An idle connection, or an empty one that is to be made.
  Connection borrow() {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool free = freed_.wait_for(lock, COMMAND_WITHIN, [this] { return lent_ < MOST; });
    if (!free) throw std::runtime_error("no connection is free");
    lent_++;
    if (idle_.empty()) return nullptr;
    Connection connection = std::move(idle_.back());
    idle_.pop_back();
    return connection;
  }

  void give_back(Connection connection) {
    const std::lock_guard<std::mutex> lock(mutex_);
    lent_--;
    if (connection) idle_.push_back(std::move(connection));
    freed_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<Connection> idle_;
  size_t lent_ = 0;
};
