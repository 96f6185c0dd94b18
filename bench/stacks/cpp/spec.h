// What the service is told once, field by field as in ../README.md; fields that are left out keep their defaults.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

enum class Kind { unary, client_stream, server_stream, bidi_stream };

inline bool requests_stream(Kind kind) { return kind == Kind::client_stream || kind == Kind::bidi_stream; }
inline bool answers_stream(Kind kind) { return kind == Kind::server_stream || kind == Kind::bidi_stream; }

struct BackendSpec {
  std::string kind;
  std::string address;
};

struct BreakerSpec {
  int failures = 5;
  int open_ms = 5'000;
};

struct PeerSpec {
  std::vector<std::string> addresses;
  std::string authority;
  int connections = 1;
  std::optional<BreakerSpec> breaker;
};

struct CacheSpec {
  int keys = 1'000;
  int64_t ttl_ms = 60'000;
};

struct StepSpec {
  std::string backend;
  std::string operation = "get";
  size_t bytes = 0;
  int keys = 1'000;
};

struct RetriesSpec {
  int attempts = 3;
  double backoff_ms = 50;
  std::vector<int> on = {14};
};

struct CallSpec {
  std::string peer;
  std::string path;
  Kind kind = Kind::unary;
  std::vector<std::string> requests;
  int request_messages = 1;
  double gap_ms = 0;
  int64_t deadline_ms = 0;
  bool optional = false;
  std::optional<RetriesSpec> retries;
};

struct MethodSpec {
  Kind kind = Kind::unary;
  std::vector<std::string> responses;
  int response_messages = 1;
  double gap_ms = 0;
  int64_t cpu_us = 0;
  double sleep_ms = 0;
  size_t allocate_bytes = 0;
  std::optional<CacheSpec> cache;
  std::vector<StepSpec> data;
  bool parallel = false;
  std::vector<CallSpec> calls;
};

struct Spec {
  std::string service;
  int replica = 0;
  std::string listen;
  std::string truth;
  std::string sent;
  uint64_t seed = 0;
  std::map<std::string, BackendSpec> backends;
  std::map<std::string, PeerSpec> peers;
  std::map<std::string, MethodSpec> methods;

  // Throws an error that says what is wrong with the file.
  static Spec read(const std::string& path);
};
