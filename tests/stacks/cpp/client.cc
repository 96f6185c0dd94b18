// The client's end: the groups of a scenario one after the other, the calls of one each in a thread.
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/impl/codegen/sync_stream.h>

#include <condition_variable>
#include <memory>
#include <thread>

#include "peer.h"

namespace {

using grpc::ByteBuffer;
using grpc::ClientContext;
using grpc::Status;
using grpc::internal::RpcMethod;

// Which method is tried again, and when.
const char RETRIES[] = R"({"methodConfig":[{"name":[{"service":"matrix.Peer","method":"Retried"}],"retryPolicy":{
  "maxAttempts":5,"initialBackoff":"0.01s","maxBackoff":"0.02s","backoffMultiplier":1,
  "retryableStatusCodes":["UNAVAILABLE"]}}]})";

// Cancels a call after a time, unless it ends before.
class Timer {
 public:
  Timer(ClientContext& context, std::chrono::milliseconds after) {
    if (after.count() == 0) return;
    thread_ = std::thread([&context, after, this] {
      std::unique_lock<std::mutex> lock(mutex_);
      if (!ended_.wait_for(lock, after, [this] { return over_; })) context.TryCancel();
    });
  }

  ~Timer() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    ended_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::thread thread_;
};

class Call {
 public:
  Call(std::shared_ptr<grpc::Channel> channel, const Plan& plan, Ledger& ledger)
      : channel_(std::move(channel)), plan_(plan), ledger_(ledger), sizes_(plan.sizes("req")) {
    truth_.id = plan.number("id");
    truth_.method = plan.text("method");
    context_.AddMetadata("x-plan", plan.told());
    if (!plan.text("trace").empty()) context_.AddMetadata("traceparent", plan.text("trace"));
    plan.metadata("meta", [&](auto key, auto value) { context_.AddMetadata(key, value); });
    if (plan.number("gzip") == 1) context_.set_compression_algorithm(GRPC_COMPRESS_GZIP);
    if (plan.number("deadline") > 0) {
      context_.set_deadline(std::chrono::system_clock::now() + plan.millis("deadline"));
    }
  }

  void run() {
    Status status;
    {
      const Timer timer(context_, plan_.millis("cancel"));
      status = converse();
    }
    truth_.status = status.error_code();
    truth_.cancelled = plan_.number("cancel") > 0 && truth_.status == grpc::StatusCode::CANCELLED;
    truth_.write(ledger_);
  }

 private:
  Status converse() {
    const std::string path = "/matrix.Peer/" + truth_.method;
    if (truth_.method == "ClientStream") {
      const RpcMethod method(path.c_str(), RpcMethod::CLIENT_STREAMING, channel_);
      ByteBuffer response;
      const std::unique_ptr<grpc::ClientWriter<ByteBuffer>> stream(
          grpc::internal::ClientWriterFactory<ByteBuffer>::Create(channel_.get(), method, &context_, &response));
      send(*stream);
      const Status status = stream->Finish();
      if (status.ok()) truth_.response(response.Length());
      return status;
    }
    if (truth_.method == "ServerStream") {
      const RpcMethod method(path.c_str(), RpcMethod::SERVER_STREAMING, channel_);
      const std::unique_ptr<grpc::ClientReader<ByteBuffer>> stream(
          grpc::internal::ClientReaderFactory<ByteBuffer>::Create(channel_.get(), method, &context_, one()));
      return receive(*stream);
    }
    if (truth_.method == "Bidi") {
      const RpcMethod method(path.c_str(), RpcMethod::BIDI_STREAMING, channel_);
      const std::unique_ptr<grpc::ClientReaderWriter<ByteBuffer, ByteBuffer>> stream(
          grpc::internal::ClientReaderWriterFactory<ByteBuffer, ByteBuffer>::Create(channel_.get(), method, &context_));
      std::thread sender([&] { send(*stream); });
      for (ByteBuffer response; stream->Read(&response);) truth_.response(response.Length());
      sender.join();
      return stream->Finish();
    }
    const RpcMethod method(path.c_str(), RpcMethod::NORMAL_RPC, channel_);
    ByteBuffer response;
    const Status status = grpc::internal::BlockingUnaryCall(channel_.get(), method, &context_, one(), &response);
    if (status.ok()) truth_.response(response.Length());
    return status;
  }

  ByteBuffer one() {
    truth_.request(sizes_.front());
    return message(sizes_.front());
  }

  template <typename Stream>
  void send(Stream& stream) {
    for (size_t i = 0; i < sizes_.size(); i++) {
      if (i > 0) std::this_thread::sleep_for(plan_.millis("cgap"));
      if (!stream.Write(message(sizes_[i]))) return;
      truth_.request(sizes_[i]);
    }
    stream.WritesDone();
  }

  template <typename Stream>
  Status receive(Stream& stream) {
    for (ByteBuffer response; stream.Read(&response);) truth_.response(response.Length());
    return stream.Finish();
  }

  std::shared_ptr<grpc::Channel> channel_;
  const Plan& plan_;
  Ledger& ledger_;
  const std::vector<size_t> sizes_;
  ClientContext context_;
  Truth truth_;
};

}  // namespace

void call(const std::string& target, const std::string& authority, const std::vector<Plan>& plans, Ledger& ledger) {
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(MAX_MESSAGE);
  options.SetMaxSendMessageSize(MAX_MESSAGE);
  options.SetInt(GRPC_ARG_MAX_METADATA_SIZE, MAX_METADATA);
  options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 300);
  options.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  options.SetInt(GRPC_ARG_ENABLE_RETRIES, 1);
  options.SetString(GRPC_ARG_SERVICE_CONFIG, RETRIES);
  options.SetString(GRPC_ARG_DEFAULT_AUTHORITY, authority);
  const auto credentials = with_tls() ? grpc::SslCredentials({tls_file("certificate.pem"), "", ""})
                                      : grpc::InsecureChannelCredentials();
  const auto channel = grpc::CreateCustomChannel(target, credentials, options);
  for (size_t i = 0; i < plans.size();) {
    const std::string group = plans[i].text("group");
    if (plans[i].number("await") == 1) {
      std::puts("waiting");
      std::fflush(stdout);
      std::getchar();
    }
    std::vector<std::thread> running;
    for (; i < plans.size() && plans[i].text("group") == group; i++) {
      running.emplace_back([&, i] { Call(channel, plans[i], ledger).run(); });
    }
    for (auto& thread : running) thread.join();
  }
}
