// Messages are bytes: the lists of messages that are sent in turn, and the names of the statuses.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <string>
#include <vector>

// The longest message that either end takes.
constexpr int MOST_BYTES = 64 << 20;

// The messages of a list, one after the other and then again; an empty list is one of empty messages.
class Turn {
 public:
  explicit Turn(const std::vector<std::string>& messages) {
    for (const auto& message : messages) {
      const grpc::Slice slice(message);
      messages_.emplace_back(&slice, 1);
    }
    if (messages_.empty()) {
      const grpc::Slice slice;
      messages_.emplace_back(&slice, 1);
    }
  }

  const grpc::ByteBuffer& next() { return messages_[sent_++ % messages_.size()]; }

 private:
  std::vector<grpc::ByteBuffer> messages_;
  std::atomic<uint64_t> sent_{0};
};

inline std::string name_of(grpc::StatusCode code) {
  static const char* const names[] = {
      "OK",           "CANCELLED",         "UNKNOWN",           "INVALID_ARGUMENT",    "DEADLINE_EXCEEDED", "NOT_FOUND",
      "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",           "OUT_OF_RANGE",
      "UNIMPLEMENTED", "INTERNAL",          "UNAVAILABLE",       "DATA_LOSS",           "UNAUTHENTICATED"};
  const auto number = static_cast<size_t>(code);
  return number < std::size(names) ? names[number] : "UNKNOWN";
}
