// What grows until it is told to stop: memory, and connections to the first backend, else to the first peer.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "chance.h"
#include "spec.h"

// Runs a step ten times a second, on a thread that lives while there is something to do.
class Ticker {
 public:
  // The step runs without a lock.
  void start(std::function<void()> step);
  void stop();

 private:
  std::mutex mutex_;
  std::condition_variable ending_;
  bool ended_ = false;
  std::thread thread_;
};

class LeakedMemory {
 public:
  ~LeakedMemory() { ticker_.stop(); }

  // Leaks so fast from now on; zero frees what leaked.
  void become(int64_t bytes_per_second, int64_t limit);

  // Reads one byte of each page so many times; all walks together take half of the time at most.
  void walk(int times);

 private:
  struct Piece {
    std::unique_ptr<char[]> memory;
    size_t bytes;
  };

  void grow(size_t bytes, size_t limit);

  Ticker ticker_;
  std::mutex pieces_mutex_;
  // Shared with a walk, so that what is freed meanwhile lives until its end.
  std::vector<std::shared_ptr<const Piece>> pieces_;
  size_t leaked_ = 0;
  std::mutex walking_;
  Steady::time_point rest_until_;
};

class LeakedConnections {
 public:
  explicit LeakedConnections(const Spec& spec);
  ~LeakedConnections() { become(0); }

  // Opens so many a second from now on; zero closes them.
  void become(double per_second);

 private:
  void open(double count);

  std::optional<Address> target_;
  Ticker ticker_;
  double owed_ = 0;
  std::vector<int> sockets_;
};
