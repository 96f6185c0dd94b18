// How a data operation is drawn and written down.
#include "backend.h"

#include "messages.h"

using grpc::Status;
using grpc::StatusCode;

std::unique_ptr<Backend> Backend::of(const std::string& name, const BackendSpec& spec, Chance& chance, Lines& sent) {
  const Address address(spec.address);
  if (spec.kind == "redis") return redis(name, address, chance, sent);
  if (spec.kind == "postgres") return postgres(name, address, chance, sent);
  throw std::runtime_error("backend " + name + " is of no known kind: " + spec.kind);
}

void Backend::connected(const Start& start) {
  SentLine line;
  line.t_ms = start.unix_ms;
  line.callee = name_;
  line.method = "CONNECT";
  line.status = name_of(StatusCode::OK);
  line.request_messages = 1;
  line.response_messages = 1;
  line.seconds = start.seconds();
  sent_.write(line);
}

Status Backend::run(const StepSpec& step) {
  const std::string key = "k" + std::to_string(static_cast<int>(chance_.draw() * step.keys));
  const bool writes = step.operation == "set";
  const Start start;
  Status status;
  try {
    if (writes) {
      write(key, std::string(step.bytes, 'x'));
    } else {
      read(key);
    }
  } catch (const std::exception& error) {
    const std::string why = error.what();
    status = Status(StatusCode::UNAVAILABLE, name_ + ": " + why.substr(0, why.find('\n')));
  }
  SentLine line;
  line.t_ms = start.unix_ms;
  line.callee = name_;
  line.method = writes ? "SET" : "GET";
  line.status = name_of(status.error_code());
  line.request_bytes = writes ? step.bytes : 0;
  line.request_messages = 1;
  line.response_messages = 1;
  line.seconds = start.seconds();
  sent_.write(line);
  return status;
}
