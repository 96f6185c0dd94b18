// Files of JSON lines that many threads write; a line is visible 0.1 s later, and only whole.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

// A call that was served.
struct ServedLine {
  int64_t t_ms = 0;
  std::string method;
  std::string status;
  bool ended = true;
  size_t request_bytes = 0;
  size_t response_bytes = 0;
  int request_messages = 0;
  int response_messages = 0;
  double seconds = 0;
  int replica = 0;
};

// A call or a data operation that was made.
struct SentLine {
  int64_t t_ms = 0;
  std::string callee;
  std::string method;
  std::string status;
  size_t request_bytes = 0;
  size_t response_bytes = 0;
  int request_messages = 0;
  int response_messages = 0;
  double seconds = 0;
  int attempt = 0;
};

class Lines {
 public:
  explicit Lines(const std::string& path);
  ~Lines();

  void write(const ServedLine& line);
  void write(const SentLine& line);
  void flush();

 private:
  void append(const std::string& text);
  void flush_now_and_then();

  std::mutex mutex_;
  std::condition_variable ending_;
  bool ended_ = false;
  std::string waiting_;
  int file_;
  std::thread writer_;
};
