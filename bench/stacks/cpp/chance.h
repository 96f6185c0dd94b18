// What is drawn in this process, and how its threads wait.
#pragma once

#include <chrono>
#include <mutex>
#include <random>
#include <string>
#include <thread>

class Chance {
 public:
  explicit Chance(uint64_t seed) : random_(seed) {}

  // From 0 to below 1.
  double draw() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::uniform_real_distribution<double>()(random_);
  }

 private:
  std::mutex mutex_;
  std::mt19937_64 random_;
};

using Steady = std::chrono::steady_clock;

inline std::chrono::nanoseconds millis(double ms) { return std::chrono::nanoseconds(static_cast<int64_t>(ms * 1e6)); }

inline void pause(double ms) {
  if (ms > 0) std::this_thread::sleep_for(millis(ms));
}

// When something began, in both clocks.
struct Start {
  int64_t unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                        std::chrono::system_clock::now().time_since_epoch())
                        .count();
  Steady::time_point at = Steady::now();

  double seconds() const { return std::chrono::duration<double>(Steady::now() - at).count(); }
};

// `host:port`; an IPv6 host stands in brackets.
struct Address {
  std::string host;
  std::string port;

  explicit Address(const std::string& text) {
    const auto colon = text.rfind(':');
    if (colon == std::string::npos) throw std::runtime_error("no port in the address " + text);
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (host.size() > 1 && host.front() == '[') host = host.substr(1, host.size() - 2);
  }
};
