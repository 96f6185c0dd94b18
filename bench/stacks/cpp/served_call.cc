// How a served call goes.
#include "served_call.h"

#include "messages.h"
#include "method.h"

using grpc::Status;
using grpc::StatusCode;

namespace {

// The caller's deadline started this much earlier than ours at most, so it may leave before ours has passed.
constexpr std::chrono::milliseconds TRANSIT(10);

}  // namespace

ServedCall::ServedCall(grpc::GenericCallbackServerContext* context, Method& method, Lines& truth, int replica,
                       Threads& threads)
    : context_(context), method_(method), truth_(truth), replica_(replica), threads_(threads) {
  if (requests_stream(method.spec.kind)) {
    begin();
  } else {
    reading_ = Step::waits;
    StartRead(&request_);
  }
}

bool ServedCall::gone() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return gone_;
}

void ServedCall::begin() {
  start_ = Start();
  if (!threads_.run([this] { end(method_.answer(*this)); })) {
    end(Status(StatusCode::RESOURCE_EXHAUSTED, "too many calls at once"));
  }
}

bool ServedCall::read() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (reading_ == Step::idle) {
    reading_ = Step::waits;
    lock.unlock();
    StartRead(&request_);
    lock.lock();
  }
  news_.wait(lock, [this] { return reading_ != Step::waits; });
  if (reading_ == Step::failed || gone_) return false;
  line_.request_bytes += request_.Length();
  line_.request_messages++;
  // There is no second message of a call that asks with one.
  reading_ = requests_stream(method_.spec.kind) ? Step::idle : Step::failed;
  return true;
}

bool ServedCall::write(const grpc::ByteBuffer& message) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (gone_ || writing_ == Step::failed) return false;
  writing_ = Step::waits;
  lock.unlock();
  StartWrite(&message);
  lock.lock();
  news_.wait(lock, [this] { return writing_ != Step::waits; });
  if (writing_ == Step::failed) return false;
  line_.response_bytes += message.Length();
  line_.response_messages++;
  return true;
}

void ServedCall::OnReadDone(bool ok) {
  bool first;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    reading_ = ok ? Step::done : Step::failed;
    first = !requests_stream(method_.spec.kind);
    news_.notify_all();
  }
  if (first && ok) begin();
  if (first && !ok) Finish(Status(StatusCode::INTERNAL, "one message was expected"));
}

void ServedCall::OnWriteDone(bool ok) {
  const std::lock_guard<std::mutex> lock(mutex_);
  writing_ = ok ? Step::done : Step::failed;
  news_.notify_all();
}

void ServedCall::OnCancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  gone_ = true;
  news_.notify_all();
}

// The line is written first: after the last message this object may be gone.
void ServedCall::end(const Status& status) {
  const bool answers = status.ok() && answer_.has_value();
  line_.ended = !gone();
  if (answers && line_.ended) {
    line_.response_bytes = answer_->Length();
    line_.response_messages = 1;
  }
  line_.t_ms = start_.unix_ms;
  line_.method = context_->method();
  line_.status = line_.ended ? name_of(status.error_code()) : leaving();
  line_.seconds = start_.seconds();
  line_.replica = replica_;
  truth_.write(line_);
  if (answers) {
    StartWriteAndFinish(&*answer_, grpc::WriteOptions(), status);
  } else {
    Finish(status);
  }
}

// Why the caller left.
std::string ServedCall::leaving() const {
  const bool late = context_->deadline() < std::chrono::system_clock::now() + TRANSIT;
  return name_of(late ? StatusCode::DEADLINE_EXCEEDED : StatusCode::CANCELLED);
}
