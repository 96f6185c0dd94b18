// Threads that serve calls, one each, and make parallel ones; idle ones are used again, and end after a while.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

class Threads {
 public:
  // Waits until all have ended.
  ~Threads();

  // Runs the task on a thread of its own; false when there are too many.
  bool run(std::function<void()> task);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable news_;
  std::condition_variable gone_;
  std::deque<std::function<void()>> tasks_;
  size_t idle_ = 0;
  size_t all_ = 0;
  bool ending_ = false;
};
