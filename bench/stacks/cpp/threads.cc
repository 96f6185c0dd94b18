// How threads are kept.
#include "threads.h"

#include <chrono>
#include <system_error>
#include <thread>

namespace {

// More calls at once are refused; stacks are mapped but hardly touched.
constexpr size_t MOST = 2'000;
constexpr std::chrono::seconds IDLE(10);

}  // namespace

Threads::~Threads() {
  std::unique_lock<std::mutex> lock(mutex_);
  ending_ = true;
  news_.notify_all();
  gone_.wait(lock, [this] { return all_ == 0; });
}

bool Threads::run(std::function<void()> task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_ <= tasks_.size()) {
    if (all_ == MOST) return false;
    try {
      std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    all_++;
    // It counts as idle from its start, so that nobody starts another one for the same task.
    idle_++;
  }
  tasks_.push_back(std::move(task));
  news_.notify_one();
  return true;
}

void Threads::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (news_.wait_for(lock, IDLE, [this] { return ending_ || !tasks_.empty(); }) && !tasks_.empty()) {
    const auto task = std::move(tasks_.front());
    tasks_.pop_front();
    idle_--;
    lock.unlock();
    task();
    lock.lock();
    idle_++;
  }
  idle_--;
  all_--;
  // Under the lock: whoever waits for this may end everything after it.
  gone_.notify_all();
}
