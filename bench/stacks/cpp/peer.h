// One service that this one calls: calls go round-robin over its connections, through its breaker, and again if told so.
#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/status.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "chance.h"
#include "lines.h"
#include "messages.h"
#include "misbehaviour.h"
#include "sent_call.h"
#include "spec.h"

// Closed, calls pass; after some failures in a row it is open, and calls are refused for a time; then one call is let
// through, whose success closes it.
class Breaker {
 public:
  explicit Breaker(const BreakerSpec& spec) : spec_(spec) {}

  bool admits();
  void ended(grpc::StatusCode code);

 private:
  const BreakerSpec spec_;
  std::mutex mutex_;
  int failures_ = 0;
  Steady::time_point open_until_;
  bool tries_ = false;
};

class Peer {
 public:
  Peer(std::string name, const PeerSpec& spec, const Misbehaviour& misbehaviour, Lines& sent);

  // Calls go to these addresses from now on; connections to addresses that stay are kept.
  void move_to(const std::vector<std::string>& addresses);

  // One call with its attempts; the last one's status is the call's.
  grpc::Status call(const CallSpec& call);

 private:
  // One HTTP/2 connection to one address; made at the first call, and again when it breaks.
  struct Link {
    std::string address;
    grpc::GenericStub stub;
  };

  grpc::Status attempt(const CallSpec& call, Turn& messages, const Deadline& deadline, int number);
  grpc::Status refuse(const CallSpec& call, const char* why);
  std::shared_ptr<Link> next_link();
  Turn& requests(const CallSpec& call);
  bool circuit_is_open();

  const std::string name_;
  const PeerSpec spec_;
  const Misbehaviour& misbehaviour_;
  Lines& sent_;
  std::optional<Breaker> breaker_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Link>> links_;
  size_t turn_ = 0;
  std::map<std::string, Turn> requests_;
};
