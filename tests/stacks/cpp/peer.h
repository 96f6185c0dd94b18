// The scenario's lines and the truth of the gRPC C++ peer; see ../README.md. server.cc and client.cc are its two ends.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

constexpr int MAX_MESSAGE = 64 << 20;
constexpr int MAX_METADATA = 1 << 20;

// One line of a scenario.
class Plan {
 public:
  explicit Plan(std::string text) : line(std::move(text)) {
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      const auto equals = word.find('=');
      if (equals != std::string::npos) fields_[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }

  std::string text(const std::string& key) const {
    const auto found = fields_.find(key);
    return found == fields_.end() ? "" : found->second;
  }

  // What the server may know of the line: without what stands before `anon=1`.
  std::string told() const {
    static const std::string mark = " anon=1 ";
    const auto at = line.find(mark);
    return at == std::string::npos ? line : line.substr(at + mark.size());
  }

  int number(const std::string& key) const { return std::atoi(text(key).c_str()); }

  std::chrono::milliseconds millis(const std::string& key) const { return std::chrono::milliseconds(number(key)); }

  // Reads `3x100,0,1`.
  std::vector<size_t> sizes(const std::string& key) const {
    std::vector<size_t> all;
    std::istringstream parts(text(key));
    for (std::string part; std::getline(parts, part, ',');) {
      if (part == "-") continue;
      const auto times = part.find('x');
      const int count = times == std::string::npos ? 1 : std::atoi(part.c_str());
      const auto size = times == std::string::npos ? part : part.substr(times + 1);
      all.insert(all.end(), count, std::strtoul(size.c_str(), nullptr, 10));
    }
    return all;
  }

  template <typename Add>
  void metadata(const std::string& key, Add add) const {
    int number = 0;
    for (const size_t size : sizes(key)) add("x-meta-" + std::to_string(number++), std::string(size, 'v'));
  }

  const std::string line;

 private:
  std::map<std::string, std::string> fields_;
};

inline grpc::ByteBuffer message(size_t size) {
  static const char ping[] = {0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; i++) bytes[i] = ping[i % sizeof(ping)];
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// Writes truth, one line a call.
class Ledger {
 public:
  explicit Ledger(const std::string& path) : file_(std::fopen(path.c_str(), "w")) {
    if (file_ == nullptr) {
      std::perror(path.c_str());
      std::exit(1);
    }
  }

  void write(const std::string& line) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::fputs(line.c_str(), file_);
    std::fflush(file_);
  }

 private:
  std::mutex mutex_;
  std::FILE* file_;
};

// What one end says of one call. gRPC C++ does not tell the bytes on the wire.
struct Truth {
  int id = 0;
  int attempt = 0;
  std::string method;
  int status = 0;
  int requests = 0;
  size_t request_bytes = 0;
  int responses = 0;
  size_t response_bytes = 0;
  bool cancelled = false;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();

  void request(size_t size) {
    requests++;
    request_bytes += size;
  }

  void response(size_t size) {
    responses++;
    response_bytes += size;
  }

  void write(Ledger& ledger) const {
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
    std::ostringstream line;
    line << "{\"id\":" << id << ",\"attempt\":" << attempt << ",\"method\":\"" << method << "\",\"status\":" << status << ",\"requests\":" << requests
         << ",\"request_bytes\":" << request_bytes << ",\"responses\":" << responses
         << ",\"response_bytes\":" << response_bytes << ",\"request_wire\":-1,\"response_wire\":-1,\"ms\":"
         << took.count() << ",\"cancelled\":" << (cancelled ? "true" : "false") << "}\n";
    ledger.write(line.str());
  }
};

// With PEER_TLS both ends speak TLS, with the key and the self-signed certificate in that folder.
inline bool with_tls() { return std::getenv("PEER_TLS") != nullptr; }

inline std::string tls_file(const std::string& name) {
  std::ifstream file(std::string(std::getenv("PEER_TLS")) + "/" + name);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Lets go of connections after some milliseconds, if those are not zero.
void serve(const std::string& address, int age, Ledger& ledger);
void call(const std::string& target, const std::string& authority, const std::vector<Plan>& plans, Ledger& ledger);
