// How a peer is called.
#include "peer.h"

#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>

using grpc::Status;
using grpc::StatusCode;

namespace {

std::string target_of(const std::string& text) {
  const Address address(text);
  unsigned char bytes[sizeof(in6_addr)];
  if (inet_pton(AF_INET, address.host.c_str(), bytes) == 1) return "ipv4:" + text;
  if (inet_pton(AF_INET6, address.host.c_str(), bytes) == 1) return "ipv6:" + text;
  return "dns:///" + text;
}

std::shared_ptr<grpc::Channel> channel_to(const std::string& address, const std::string& authority) {
  grpc::ChannelArguments options;
  options.SetString(GRPC_ARG_DEFAULT_AUTHORITY, authority);
  options.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  options.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  // This is how long one attempt to connect may take.
  options.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1'000);
  // Without it all channels to an address share one connection.
  options.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A hidden attempt would be on the wire and in no line.
  options.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  options.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  options.SetMaxReceiveMessageSize(MOST_BYTES);
  return grpc::CreateCustomChannel(target_of(address), grpc::InsecureChannelCredentials(), options);
}

}  // namespace

bool Breaker::admits() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failures_ < spec_.failures) return true;
  if (tries_ || Steady::now() < open_until_) return false;
  tries_ = true;
  return true;
}

void Breaker::ended(StatusCode code) {
  const std::lock_guard<std::mutex> lock(mutex_);
  tries_ = false;
  const bool good = code == StatusCode::OK || code == StatusCode::INVALID_ARGUMENT || code == StatusCode::NOT_FOUND ||
                    code == StatusCode::PERMISSION_DENIED;
  if (good) {
    failures_ = 0;
    return;
  }
  // Calls that were under way when it opened do not keep it open for longer.
  const bool open = failures_ >= spec_.failures && Steady::now() < open_until_;
  failures_++;
  if (failures_ >= spec_.failures && !open) open_until_ = Steady::now() + std::chrono::milliseconds(spec_.open_ms);
}

Peer::Peer(std::string name, const PeerSpec& spec, const Misbehaviour& misbehaviour, Lines& sent)
    : name_(std::move(name)), spec_(spec), misbehaviour_(misbehaviour), sent_(sent) {
  if (spec.breaker) breaker_.emplace(*spec.breaker);
  move_to(spec.addresses);
}

void Peer::move_to(const std::vector<std::string>& addresses) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // A connection that nobody takes over ends with its last call.
  auto old = std::move(links_);
  links_.clear();
  for (int connection = 0; connection < spec_.connections; connection++) {
    for (const auto& address : addresses) {
      const auto kept =
          std::find_if(old.begin(), old.end(), [&](const auto& link) { return link->address == address; });
      if (kept == old.end()) {
        links_.push_back(std::make_shared<Link>(Link{address, grpc::GenericStub(channel_to(address, spec_.authority))}));
      } else {
        links_.push_back(std::move(*kept));
        old.erase(kept);
      }
    }
  }
}

Status Peer::call(const CallSpec& call) {
  Turn& messages = requests(call);
  Deadline deadline;
  if (call.deadline_ms > 0) {
    deadline = std::chrono::system_clock::now() + std::chrono::milliseconds(call.deadline_ms);
  }
  for (int number = 0;; number++) {
    if (circuit_is_open()) return refuse(call, "circuit open");
    const Status status = attempt(call, messages, deadline, number);
    if (status.ok() || !call.retries || number + 1 >= call.retries->attempts) return status;
    const auto& on = call.retries->on;
    if (std::find(on.begin(), on.end(), status.error_code()) == on.end()) return status;
    const double wait = call.retries->backoff_ms * (number + 1);
    if (deadline && std::chrono::system_clock::now() + millis(wait) >= *deadline) return status;
    pause(wait);
  }
}

bool Peer::circuit_is_open() {
  return misbehaviour_.now()->open_circuits.count(name_) > 0 || (breaker_ && !breaker_->admits());
}

Status Peer::attempt(const CallSpec& call, Turn& messages, const Deadline& deadline, int number) {
  const auto link = next_link();
  if (!link) return refuse(call, "no address");
  SentCall made(link->stub, call, deadline, number);
  const Status status = made.run(messages);
  if (breaker_) breaker_->ended(status.error_code());
  SentLine line = made.line();
  line.callee = name_;
  line.status = name_of(status.error_code());
  sent_.write(line);
  return status;
}

// A call that is on no wire.
Status Peer::refuse(const CallSpec& call, const char* why) {
  SentLine line;
  line.t_ms = Start().unix_ms;
  line.callee = name_;
  line.method = call.path;
  line.status = name_of(StatusCode::UNAVAILABLE);
  line.attempt = -1;
  sent_.write(line);
  return Status(StatusCode::UNAVAILABLE, why);
}

std::shared_ptr<Peer::Link> Peer::next_link() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return links_.empty() ? nullptr : links_[turn_++ % links_.size()];
}

Turn& Peer::requests(const CallSpec& call) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return requests_.try_emplace(call.path, call.requests).first->second;
}
