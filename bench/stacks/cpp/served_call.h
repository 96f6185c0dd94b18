// One served call: gRPC's events go in on its threads; Method reads and writes messages on a thread of the call's own,
// and waits where it must; the call's line of truth goes out.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <condition_variable>
#include <mutex>
#include <optional>

#include "chance.h"
#include "lines.h"
#include "threads.h"

class Method;

class ServedCall final : public grpc::ServerGenericBidiReactor {
 public:
  ServedCall(grpc::GenericCallbackServerContext* context, Method& method, Lines& truth, int replica, Threads& threads);

  // Whether the caller has left.
  bool gone();

  // Waits for the next request message; false after the last one, and when the caller has left.
  bool read();

  // Sends a message of a stream, and waits until it is on its way; false when the caller has left.
  bool write(const grpc::ByteBuffer& message);

  // Gives the one message of a call that answers with one; it goes out with the status.
  void answer(const grpc::ByteBuffer& message) { answer_ = message; }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  enum class Step { idle, waits, done, failed };

  void begin();
  void end(const grpc::Status& status);
  std::string leaving() const;

  grpc::GenericCallbackServerContext* const context_;
  Method& method_;
  Lines& truth_;
  const int replica_;
  Threads& threads_;
  Start start_;

  std::mutex mutex_;
  std::condition_variable news_;
  Step reading_ = Step::idle;
  Step writing_ = Step::idle;
  bool gone_ = false;
  grpc::ByteBuffer request_;

  std::optional<grpc::ByteBuffer> answer_;
  ServedLine line_;
};
