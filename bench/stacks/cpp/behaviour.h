// How the service misbehaves, field by field as in ../README.md. misbehaviour.h does it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

struct Effect {
  std::optional<std::string> method;
  double fraction = 1;
  double delay_ms = 0;
  double jitter_ms = 0;
  double lock_ms = 0;
  int max_in_flight = 0;
  int status = 0;
  bool cut = false;
};

struct Behaviour {
  std::vector<Effect> effects;
  int64_t leak_bytes_per_second = 0;
  int64_t leak_limit_bytes = 0;
  int leak_walks = 0;
  int spin_threads = 0;
  double leak_connections_per_second = 0;
  std::set<std::string> open_circuits;
  std::map<std::string, std::vector<std::string>> addresses;
  std::set<std::string> absent;

  // Throws an error that says what is wrong with the line.
  static Behaviour parse(const std::string& line);
};
