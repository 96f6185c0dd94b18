// How a call is answered.
#include "method.h"

#include <cmath>
#include <cstdio>
#include <future>

using grpc::Status;

int Cache::draw() { return static_cast<int>(spec_.keys * std::pow(chance_.draw(), 3)); }

bool Cache::has(int key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = entries_.find(key);
  return found != entries_.end() && Steady::now() < found->second;
}

void Cache::fill(int key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  entries_[key] = Steady::now() + std::chrono::milliseconds(spec_.ttl_ms);
}

Method::Method(std::string path, const MethodSpec& spec, const Surroundings& around)
    : spec(spec), path_(std::move(path)), around_(around), responses_(spec.responses) {
  if (spec.cache) cache_.emplace(*spec.cache, around.chance);
}

Status Method::answer(ServedCall& call) {
  bool asked = call.read();
  while (asked && spec.kind == Kind::client_stream) asked = call.read();
  if (call.gone()) return Status::CANCELLED;
  const auto injected = around_.misbehaviour.strike(path_);
  if (injected) {
    if (injected->cut && answers_stream(spec.kind)) send(call, 0, spec.response_messages / 2);
    return injected->status;
  }
  Status status;
  try {
    status = serve(call, asked);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", path_.c_str(), error.what());
    status = Status(grpc::StatusCode::INTERNAL, error.what());
  }
  around_.misbehaviour.end();
  return status;
}

Status Method::serve(ServedCall& call, bool asked) {
  const Status status = work(call);
  if (!status.ok()) return status;
  if (!answers_stream(spec.kind)) {
    call.answer(responses_.next());
    return Status::OK;
  }
  const int sent = spec.kind == Kind::bidi_stream ? converse(call, asked) : 0;
  send(call, sent, spec.response_messages);
  return Status::OK;
}

// Everything between the effects and the answer.
Status Method::work(ServedCall& call) {
  if (spec.sleep_ms > 0) pause(spec.sleep_ms * (0.7 + 0.6 * around_.chance.draw()));
  around_.misbehaviour.walk();
  around_.work.burn(spec.cpu_us);
  Work::allocate(spec.allocate_bytes);
  if (!cache_) return ask(call);
  const int key = cache_->draw();
  if (cache_->has(key)) return Status::OK;
  const Status status = ask(call);
  if (status.ok()) cache_->fill(key);
  return status;
}

// The data operations, then the calls.
Status Method::ask(ServedCall& call) {
  for (const auto& step : spec.data) {
    if (call.gone()) return Status::CANCELLED;
    const Status status = around_.backends.at(step.backend)->run(step);
    if (!status.ok()) return status;
  }
  if (call.gone()) return Status::CANCELLED;
  return spec.parallel ? call_at_once() : call_in_turn(call);
}

Status Method::call_in_turn(ServedCall& call) {
  for (const auto& next : spec.calls) {
    if (call.gone()) return Status::CANCELLED;
    const Status status = make(next);
    if (!status.ok()) return status;
  }
  return Status::OK;
}

// All are waited for; the first in the list that failed is what counts.
Status Method::call_at_once() {
  std::vector<std::future<Status>> running;
  for (const auto& next : spec.calls) {
    const auto making = std::make_shared<std::packaged_task<Status()>>([this, &next] { return make(next); });
    running.push_back(making->get_future());
    if (!around_.threads.run([making] { (*making)(); })) (*making)();
  }
  for (const auto& ending : running) ending.wait();
  Status first;
  for (auto& ending : running) {
    const Status status = ending.get();
    if (first.ok()) first = status;
  }
  return first;
}

// Makes one call; OK if its failure does not matter.
Status Method::make(const CallSpec& call) {
  if (around_.misbehaviour.now()->absent.count(call.peer) > 0) return Status::OK;
  const Status status = around_.peers.at(call.peer)->call(call);
  if (status.ok() || call.optional) return Status::OK;
  return Status(status.error_code(), call.peer + call.path + ": " + status.error_message());
}

// Answers each request with one message while there are some to send, and reads to the end; says how many it sent.
int Method::converse(ServedCall& call, bool asked) {
  int sent = 0;
  for (; asked; asked = call.read()) {
    if (sent < spec.response_messages) {
      send(call, sent, sent + 1);
      sent++;
    }
  }
  return sent;
}

// Sends messages until so many are sent; those of a stream are some time apart.
void Method::send(ServedCall& call, int sent, int until) {
  for (int number = sent; number < until && !call.gone(); number++) {
    if (number > 0) pause(spec.gap_ms);
    if (!call.write(responses_.next())) return;
  }
}
