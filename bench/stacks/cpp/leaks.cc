// How memory and connections leak.
#include "leaks.h"

#include <malloc.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>

#include "work.h"

namespace {

constexpr int STEPS_PER_SECOND = 10;

// More would use up the ports of the machine, and other services would suffer for it.
constexpr size_t MOST_CONNECTIONS = 5'000;

// A socket that is connected within a second, or -1.
int connected(const Address& target) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &found) != 0) return -1;
  const int opened = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  // The time to send is the time to connect, too.
  const timeval second{1, 0};
  bool reached = opened >= 0 && setsockopt(opened, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second) == 0;
  reached = reached && connect(opened, found->ai_addr, found->ai_addrlen) == 0;
  freeaddrinfo(found);
  if (reached) return opened;
  if (opened >= 0) close(opened);
  return -1;
}

}  // namespace

void Ticker::start(std::function<void()> step) {
  stop();
  ended_ = false;
  thread_ = std::thread([this, step = std::move(step)] {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!ending_.wait_for(lock, millis(1e3 / STEPS_PER_SECOND), [this] { return ended_; })) {
      lock.unlock();
      step();
      lock.lock();
    }
  });
}

void Ticker::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    ending_.notify_all();
  }
  thread_.join();
}

void LeakedMemory::become(int64_t bytes_per_second, int64_t limit) {
  if (bytes_per_second > 0) {
    const auto bytes = static_cast<size_t>(bytes_per_second) / STEPS_PER_SECOND;
    ticker_.start([=] { grow(bytes, static_cast<size_t>(limit)); });
    return;
  }
  ticker_.stop();
  {
    const std::lock_guard<std::mutex> lock(pieces_mutex_);
    if (pieces_.empty()) return;
    pieces_.clear();
    leaked_ = 0;
  }
  malloc_trim(0);
}

void LeakedMemory::grow(size_t bytes, size_t limit) {
  const std::lock_guard<std::mutex> lock(pieces_mutex_);
  if (bytes == 0 || leaked_ + bytes > limit) return;
  Piece piece{std::unique_ptr<char[]>(new char[bytes]), bytes};
  touch(piece.memory.get(), bytes);
  pieces_.push_back(std::make_shared<const Piece>(std::move(piece)));
  leaked_ += bytes;
}

void LeakedMemory::walk(int times) {
  if (times == 0) return;
  const std::unique_lock<std::mutex> walking(walking_, std::try_to_lock);
  const auto started = Steady::now();
  if (!walking || started < rest_until_) return;
  std::vector<std::shared_ptr<const Piece>> pieces;
  {
    const std::lock_guard<std::mutex> lock(pieces_mutex_);
    pieces = pieces_;
  }
  for (int walk = 0; walk < times; walk++) {
    for (const auto& piece : pieces) {
      const volatile char* memory = piece->memory.get();
      for (size_t at = 0; at < piece->bytes; at += PAGE) (void)memory[at];
    }
  }
  const auto ended = Steady::now();
  rest_until_ = ended + (ended - started);
}

LeakedConnections::LeakedConnections(const Spec& spec) {
  if (!spec.backends.empty()) {
    target_ = Address(spec.backends.begin()->second.address);
  } else if (!spec.peers.empty()) {
    target_ = Address(spec.peers.begin()->second.addresses.front());
  }
}

void LeakedConnections::become(double per_second) {
  ticker_.stop();
  if (per_second > 0 && target_) {
    ticker_.start([=] { open(per_second / STEPS_PER_SECOND); });
    return;
  }
  owed_ = 0;
  for (const int opened : sockets_) close(opened);
  sockets_.clear();
}

// Only the ticker's thread comes here, and nobody else touches the sockets while it runs.
void LeakedConnections::open(double count) {
  for (owed_ += count; owed_ >= 1; owed_ -= 1) {
    if (sockets_.size() >= MOST_CONNECTIONS) return;
    const int opened = connected(*target_);
    if (opened >= 0) sockets_.push_back(opened);
  }
}
