// One attempt of a call to a peer: messages go out and its end is waited for on the caller's thread; answers are counted
// on gRPC's.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "chance.h"
#include "lines.h"
#include "messages.h"
#include "spec.h"

using Deadline = std::optional<std::chrono::system_clock::time_point>;

class SentCall final : private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  SentCall(grpc::GenericStub& stub, const CallSpec& call, const Deadline& deadline, int attempt);

  // Makes the call and waits for its end.
  grpc::Status run(Turn& messages);

  // What was counted; who was called and how it ended is to be added.
  const SentLine& line() const { return line_; }

 private:
  grpc::Status ask_one(Turn& messages);
  void ask_many(Turn& messages);
  bool rest(double ms);
  bool write(const grpc::ByteBuffer& message);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  grpc::GenericStub& stub_;
  const CallSpec& call_;
  grpc::ClientContext context_;
  const Start start_;
  SentLine line_;

  std::mutex mutex_;
  std::condition_variable news_;
  bool writing_ = false;
  bool written_ = false;
  bool broken_ = false;
  std::optional<grpc::Status> ended_;
  grpc::ByteBuffer response_;
};
