// The server's end, registered by hand as generated code would do it: one thread a call.
#include <grpcpp/support/method_handler.h>

#include <thread>

#include "peer.h"

namespace {

using grpc::ByteBuffer;
using grpc::ServerContext;
using grpc::Status;
using grpc::internal::RpcMethod;
using grpc::internal::RpcServiceMethod;

const Status CANCELLED(grpc::StatusCode::CANCELLED, "cancelled");

// One call: what is asked, what was done.
class Conversation {
 public:
  Conversation(ServerContext* context, const char* method, Ledger& ledger)
      : context_(context), ledger_(ledger), plan(metadata(context, "x-plan")), responses_(plan.sizes("res")) {
    truth.id = plan.number("id");
    truth.attempt = std::atoi(metadata(context, "grpc-previous-rpc-attempts").c_str());
    truth.method = method;
    if (plan.number("gzip") == 1) context->set_compression_algorithm(GRPC_COMPRESS_GZIP);
    plan.metadata("tmeta", [&](auto key, auto value) { context->AddTrailingMetadata(key, value); });
    plan.metadata("rmeta", [&](auto key, auto value) { context->AddInitialMetadata(key, value); });
  }

  // Waits; false if the call was cancelled.
  bool pause(const char* key) const {
    const auto until = std::chrono::steady_clock::now() + plan.millis(key);
    while (std::chrono::steady_clock::now() < until) {
      if (context_->IsCancelled()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  // What it ends with.
  int status() const {
    return truth.attempt < plan.number("retry") ? int{grpc::StatusCode::UNAVAILABLE} : plan.number("status");
  }

  bool early() const { return plan.number("early") == 1; }
  bool owes() const { return next_ < responses_.size(); }

  // The next response's size; waits between two. False if the call was cancelled.
  template <typename Write>
  bool send(Write write) {
    if (next_ > 0 && !pause("gap")) return false;
    const size_t size = responses_[next_++];
    if (!write(message(size))) return false;
    truth.response(size);
    return true;
  }

  Status end(bool cancelled) {
    if (plan.number("scancel") == 1) context_->TryCancel();
    const int code = status();
    truth.cancelled = cancelled || context_->IsCancelled();
    truth.status = cancelled ? int{grpc::StatusCode::CANCELLED} : code;
    truth.write(ledger_);
    if (cancelled) return CANCELLED;
    return code == 0 ? Status::OK : Status(static_cast<grpc::StatusCode>(code), "asked");
  }

 private:
  static std::string metadata(ServerContext* context, const char* key) {
    const auto found = context->client_metadata().find(key);
    if (found == context->client_metadata().end()) return "";
    return std::string(found->second.data(), found->second.length());
  }

  ServerContext* context_;
  Ledger& ledger_;
  size_t next_ = 0;

 public:
  const Plan plan;
  Truth truth;

 private:
  const std::vector<size_t> responses_;
};

class Peer final : public grpc::Service {
 public:
  explicit Peer(Ledger& ledger) : ledger_(ledger) {
    AddMethod(new RpcServiceMethod(
        "/matrix.Peer/Unary", RpcMethod::NORMAL_RPC,
        new grpc::internal::RpcMethodHandler<Peer, ByteBuffer, ByteBuffer>(
            [](Peer* peer, ServerContext* context, const ByteBuffer* request, ByteBuffer* response) {
              return peer->unary(context, "Unary", *request, response);
            },
            this)));
    AddMethod(new RpcServiceMethod(
        "/matrix.Peer/Retried", RpcMethod::NORMAL_RPC,
        new grpc::internal::RpcMethodHandler<Peer, ByteBuffer, ByteBuffer>(
            [](Peer* peer, ServerContext* context, const ByteBuffer* request, ByteBuffer* response) {
              return peer->unary(context, "Retried", *request, response);
            },
            this)));
    AddMethod(new RpcServiceMethod(
        "/matrix.Peer/ClientStream", RpcMethod::CLIENT_STREAMING,
        new grpc::internal::ClientStreamingHandler<Peer, ByteBuffer, ByteBuffer>(
            [](Peer* peer, ServerContext* context, grpc::ServerReader<ByteBuffer>* reader, ByteBuffer* response) {
              return peer->client_stream(context, reader, response);
            },
            this)));
    AddMethod(new RpcServiceMethod(
        "/matrix.Peer/ServerStream", RpcMethod::SERVER_STREAMING,
        new grpc::internal::ServerStreamingHandler<Peer, ByteBuffer, ByteBuffer>(
            [](Peer* peer, ServerContext* context, const ByteBuffer* request, grpc::ServerWriter<ByteBuffer>* writer) {
              return peer->server_stream(context, *request, writer);
            },
            this)));
    AddMethod(new RpcServiceMethod(
        "/matrix.Peer/Bidi", RpcMethod::BIDI_STREAMING,
        new grpc::internal::BidiStreamingHandler<Peer, ByteBuffer, ByteBuffer>(
            [](Peer* peer, ServerContext* context, grpc::ServerReaderWriter<ByteBuffer, ByteBuffer>* stream) {
              return peer->bidi(context, stream);
            },
            this)));
  }

 private:
  // The one response of a method that has one; a failure carries none.
  Status single(Conversation& talk, ByteBuffer* response) {
    if (!talk.pause("delay")) return talk.end(true);
    if (talk.status() == 0 && talk.owes()) {
      talk.send([&](const ByteBuffer& bytes) {
        *response = bytes;
        return true;
      });
    }
    return talk.end(false);
  }

  Status unary(ServerContext* context, const char* method, const ByteBuffer& request, ByteBuffer* response) {
    Conversation talk(context, method, ledger_);
    talk.truth.request(request.Length());
    return single(talk, response);
  }

  Status client_stream(ServerContext* context, grpc::ServerReader<ByteBuffer>* reader, ByteBuffer* response) {
    Conversation talk(context, "ClientStream", ledger_);
    for (ByteBuffer request; !talk.early() && reader->Read(&request);) talk.truth.request(request.Length());
    return single(talk, response);
  }

  Status server_stream(ServerContext* context, const ByteBuffer& request, grpc::ServerWriter<ByteBuffer>* writer) {
    Conversation talk(context, "ServerStream", ledger_);
    talk.truth.request(request.Length());
    if (!talk.pause("delay")) return talk.end(true);
    return rest(talk, writer);
  }

  Status bidi(ServerContext* context, grpc::ServerReaderWriter<ByteBuffer, ByteBuffer>* stream) {
    Conversation talk(context, "Bidi", ledger_);
    if (!talk.pause("delay")) return talk.end(true);
    for (ByteBuffer request; !talk.early() && stream->Read(&request);) {
      talk.truth.request(request.Length());
      if (talk.owes() && !talk.send([&](const ByteBuffer& bytes) { return stream->Write(bytes); })) {
        return talk.end(true);
      }
    }
    return rest(talk, stream);
  }

  template <typename Writer>
  Status rest(Conversation& talk, Writer* writer) {
    while (talk.owes()) {
      if (!talk.send([&](const ByteBuffer& bytes) { return writer->Write(bytes); })) return talk.end(true);
    }
    return talk.end(false);
  }

  Ledger& ledger_;
};

}  // namespace

void serve(const std::string& address, int age, Ledger& ledger) {
  Peer peer(ledger);
  grpc::ServerBuilder builder;
  auto credentials = grpc::InsecureServerCredentials();
  if (with_tls()) {
    grpc::SslServerCredentialsOptions options;
    options.pem_key_cert_pairs.push_back({tls_file("key.pem"), tls_file("certificate.pem")});
    credentials = grpc::SslServerCredentials(options);
  }
  builder.AddListeningPort(address, credentials);
  builder.SetMaxReceiveMessageSize(MAX_MESSAGE);
  builder.SetMaxSendMessageSize(MAX_MESSAGE);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, MAX_METADATA);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 300);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  if (age > 0) builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, age);
  builder.RegisterService(&peer);
  const auto server = builder.BuildAndStart();
  if (!server) std::exit(1);
  std::puts("ready");
  std::fflush(stdout);
  server->Wait();
}
