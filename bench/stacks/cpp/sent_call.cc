// How a call is made.
#include "sent_call.h"

using grpc::ByteBuffer;
using grpc::Status;

SentCall::SentCall(grpc::GenericStub& stub, const CallSpec& call, const Deadline& deadline, int attempt)
    : stub_(stub), call_(call) {
  line_.t_ms = start_.unix_ms;
  line_.method = call.path;
  line_.attempt = attempt;
  if (deadline) context_.set_deadline(*deadline);
  if (attempt > 0) context_.AddMetadata("grpc-previous-rpc-attempts", std::to_string(attempt));
}

Status SentCall::run(Turn& messages) {
  Status status;
  if (call_.kind == Kind::unary) {
    status = ask_one(messages);
  } else {
    ask_many(messages);
    std::unique_lock<std::mutex> lock(mutex_);
    news_.wait(lock, [this] { return ended_.has_value(); });
    status = *ended_;
  }
  line_.seconds = start_.seconds();
  return status;
}

Status SentCall::ask_one(Turn& messages) {
  const ByteBuffer request = messages.next();
  line_.request_bytes = request.Length();
  line_.request_messages = 1;
  stub_.UnaryCall(&context_, call_.path, grpc::StubOptions(), &request, &response_, [this](const Status& status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = status;
    news_.notify_all();
  });
  std::unique_lock<std::mutex> lock(mutex_);
  news_.wait(lock, [this] { return ended_.has_value(); });
  if (ended_->ok()) {
    line_.response_bytes = response_.Length();
    line_.response_messages = 1;
  }
  return *ended_;
}

void SentCall::ask_many(Turn& messages) {
  stub_.PrepareBidiStreamingCall(&context_, call_.path, grpc::StubOptions(), this);
  StartRead(&response_);
  // The call may end while messages are still to be sent; it is not done before this is taken back.
  AddHold();
  StartCall();
  const int count = requests_stream(call_.kind) ? call_.request_messages : 1;
  for (int number = 0; number < count; number++) {
    if (number > 0 && !rest(call_.gap_ms)) break;
    if (!write(messages.next())) break;
  }
  StartWritesDone();
  RemoveHold();
}

// Waits so long; false when nobody answers any more.
bool SentCall::rest(double ms) {
  std::unique_lock<std::mutex> lock(mutex_);
  return !news_.wait_for(lock, millis(ms), [this] { return broken_; });
}

// Sends a message and waits until it is on its way; false when it is not, for the call has ended. All answers may be
// there before we hear that it is.
bool SentCall::write(const ByteBuffer& message) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (broken_) return false;
  writing_ = true;
  lock.unlock();
  StartWrite(&message);
  lock.lock();
  news_.wait(lock, [this] { return !writing_; });
  if (!written_) return false;
  line_.request_bytes += message.Length();
  line_.request_messages++;
  return true;
}

void SentCall::OnReadDone(bool ok) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ok) {
      broken_ = true;
      news_.notify_all();
      return;
    }
    line_.response_bytes += response_.Length();
    line_.response_messages++;
  }
  StartRead(&response_);
}

void SentCall::OnWriteDone(bool ok) {
  const std::lock_guard<std::mutex> lock(mutex_);
  writing_ = false;
  written_ = ok;
  broken_ = broken_ || !ok;
  news_.notify_all();
}

// Nothing of this object is touched after it: its owner goes on as soon as the lock is free.
void SentCall::OnDone(const Status& status) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ended_ = status;
  news_.notify_all();
}
