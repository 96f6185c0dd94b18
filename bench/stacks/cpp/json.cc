// Reads the spec and lines of behaviour. Unknown fields are ignored; null is as good as left out.
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "behaviour.h"
#include "spec.h"

namespace nlohmann {

// Optional fields; nlohmann reads the others by itself.
template <typename T>
struct adl_serializer<std::optional<T>> {
  static void from_json(const json& from, std::optional<T>& into) { into = from.get<T>(); }
};

}  // namespace nlohmann

namespace {

using nlohmann::json;

template <typename T>
void take(const json& from, const char* field, T& into) {
  const auto found = from.find(field);
  if (found == from.end() || found->is_null()) return;
  try {
    found->get_to(into);
  } catch (const json::exception& error) {
    throw std::runtime_error(std::string(field) + ": " + error.what());
  }
}

int digit_of_base64(char letter) {
  if (letter >= 'A' && letter <= 'Z') return letter - 'A';
  if (letter >= 'a' && letter <= 'z') return letter - 'a' + 26;
  if (letter >= '0' && letter <= '9') return letter - '0' + 52;
  if (letter == '+') return 62;
  if (letter == '/') return 63;
  throw std::runtime_error("a message is not base64");
}

std::string bytes_of_base64(const std::string& text) {
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char letter : text) {
    if (letter == '=') break;
    bits = bits << 6 | digit_of_base64(letter);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<char>(bits >> count & 0xff));
    }
  }
  return bytes;
}

void take_messages(const json& from, const char* field, std::vector<std::string>& into) {
  take(from, field, into);
  for (auto& message : into) message = bytes_of_base64(message);
}

}  // namespace

void from_json(const json& from, Kind& into) {
  const auto name = from.get<std::string>();
  if (name == "unary") into = Kind::unary;
  else if (name == "client-stream") into = Kind::client_stream;
  else if (name == "server-stream") into = Kind::server_stream;
  else if (name == "bidi-stream") into = Kind::bidi_stream;
  else throw std::runtime_error("no kind of method: " + name);
}

void from_json(const json& from, BackendSpec& into) {
  take(from, "kind", into.kind);
  take(from, "address", into.address);
}

void from_json(const json& from, BreakerSpec& into) {
  take(from, "failures", into.failures);
  take(from, "open_ms", into.open_ms);
}

void from_json(const json& from, PeerSpec& into) {
  take(from, "addresses", into.addresses);
  take(from, "authority", into.authority);
  take(from, "connections", into.connections);
  take(from, "breaker", into.breaker);
}

void from_json(const json& from, CacheSpec& into) {
  take(from, "keys", into.keys);
  take(from, "ttl_ms", into.ttl_ms);
}

void from_json(const json& from, StepSpec& into) {
  take(from, "backend", into.backend);
  take(from, "operation", into.operation);
  take(from, "bytes", into.bytes);
  take(from, "keys", into.keys);
}

void from_json(const json& from, RetriesSpec& into) {
  take(from, "attempts", into.attempts);
  take(from, "backoff_ms", into.backoff_ms);
  take(from, "on", into.on);
}

void from_json(const json& from, CallSpec& into) {
  take(from, "peer", into.peer);
  take(from, "path", into.path);
  take(from, "kind", into.kind);
  take_messages(from, "requests", into.requests);
  take(from, "request_messages", into.request_messages);
  take(from, "gap_ms", into.gap_ms);
  take(from, "deadline_ms", into.deadline_ms);
  take(from, "optional", into.optional);
  take(from, "retries", into.retries);
}

void from_json(const json& from, MethodSpec& into) {
  take(from, "kind", into.kind);
  take_messages(from, "responses", into.responses);
  take(from, "response_messages", into.response_messages);
  take(from, "gap_ms", into.gap_ms);
  take(from, "cpu_us", into.cpu_us);
  take(from, "sleep_ms", into.sleep_ms);
  take(from, "allocate_bytes", into.allocate_bytes);
  take(from, "cache", into.cache);
  take(from, "data", into.data);
  take(from, "parallel", into.parallel);
  take(from, "calls", into.calls);
}

void from_json(const json& from, Effect& into) {
  take(from, "method", into.method);
  take(from, "fraction", into.fraction);
  take(from, "delay_ms", into.delay_ms);
  take(from, "jitter_ms", into.jitter_ms);
  take(from, "lock_ms", into.lock_ms);
  take(from, "max_in_flight", into.max_in_flight);
  take(from, "status", into.status);
  take(from, "cut", into.cut);
}

namespace {

// Names must resolve now, not in the middle of a call.
void check(const Spec& spec) {
  for (const auto& [path, method] : spec.methods) {
    for (const auto& call : method.calls) {
      if (spec.peers.count(call.peer) == 0) throw std::runtime_error(path + ": peers has no " + call.peer);
    }
    for (const auto& step : method.data) {
      if (spec.backends.count(step.backend) == 0) {
        throw std::runtime_error(path + ": backends has no " + step.backend);
      }
    }
  }
  for (const auto& [name, peer] : spec.peers) {
    if (peer.addresses.empty()) throw std::runtime_error("peer " + name + " has no addresses");
  }
}

}  // namespace

Spec Spec::read(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("it cannot be read");
  const auto from = json::parse(file);
  Spec spec;
  take(from, "service", spec.service);
  take(from, "replica", spec.replica);
  take(from, "listen", spec.listen);
  take(from, "truth", spec.truth);
  take(from, "sent", spec.sent);
  take(from, "seed", spec.seed);
  take(from, "backends", spec.backends);
  take(from, "peers", spec.peers);
  take(from, "methods", spec.methods);
  check(spec);
  return spec;
}

Behaviour Behaviour::parse(const std::string& line) {
  const auto from = json::parse(line);
  Behaviour behaviour;
  take(from, "effects", behaviour.effects);
  take(from, "leak_bytes_per_second", behaviour.leak_bytes_per_second);
  take(from, "leak_limit_bytes", behaviour.leak_limit_bytes);
  take(from, "leak_walks", behaviour.leak_walks);
  take(from, "spin_threads", behaviour.spin_threads);
  take(from, "leak_connections_per_second", behaviour.leak_connections_per_second);
  take(from, "open_circuits", behaviour.open_circuits);
  take(from, "addresses", behaviour.addresses);
  take(from, "absent", behaviour.absent);
  return behaviour;
}
