// How lines are written.
#include "lines.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

Lines::Lines(const std::string& path) : file_(open(path.c_str(), O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0644)) {
  if (file_ < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
  writer_ = std::thread([this] { flush_now_and_then(); });
}

Lines::~Lines() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    ending_.notify_all();
  }
  writer_.join();
  flush();
  close(file_);
}

void Lines::write(const ServedLine& line) {
  append(nlohmann::ordered_json{{"t_ms", line.t_ms},
                                {"method", line.method},
                                {"status", line.status},
                                {"ended", line.ended},
                                {"request_bytes", line.request_bytes},
                                {"response_bytes", line.response_bytes},
                                {"request_messages", line.request_messages},
                                {"response_messages", line.response_messages},
                                {"seconds", line.seconds},
                                {"replica", line.replica}}
             .dump());
}

void Lines::write(const SentLine& line) {
  append(nlohmann::ordered_json{{"t_ms", line.t_ms},
                                {"callee", line.callee},
                                {"method", line.method},
                                {"status", line.status},
                                {"request_bytes", line.request_bytes},
                                {"response_bytes", line.response_bytes},
                                {"request_messages", line.request_messages},
                                {"response_messages", line.response_messages},
                                {"seconds", line.seconds},
                                {"attempt", line.attempt}}
             .dump());
}

void Lines::append(const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  waiting_ += text;
  waiting_ += '\n';
}

// One write of whole lines at the end of the file.
void Lines::flush() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (waiting_.empty()) return;
  if (::write(file_, waiting_.data(), waiting_.size()) != static_cast<ssize_t>(waiting_.size())) {
    std::fprintf(stderr, "truth cannot be written: %s\n", std::strerror(errno));
  }
  waiting_.clear();
}

void Lines::flush_now_and_then() {
  while (true) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (ending_.wait_for(lock, std::chrono::milliseconds(100), [this] { return ended_; })) return;
    }
    flush();
  }
}
