// The generic service on gRPC C++: a spec comes in on the command line, calls on a port, behaviour on standard input;
// truth lines go out. ../README.md says what it does. ServedCall is a call that came in, Method answers it, Peer and
// Backend are whom it asks.
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <future>
#include <memory>

#include "method.h"
#include "served_call.h"

namespace {

// How long running calls may take when the service ends.
constexpr std::chrono::seconds LAST_CALLS(1);

// Each path of the spec is a method without generated code.
class Door final : public grpc::CallbackGenericService {
 public:
  Door(int replica, Lines& truth, Threads& threads) : replica_(replica), truth_(truth), threads_(threads) {}

  void add(const std::string& path, const MethodSpec& spec, const Surroundings& around) {
    methods_.try_emplace(path, path, spec, around);
  }

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const auto found = methods_.find(context->method());
    // The base class answers UNIMPLEMENTED.
    if (found == methods_.end()) return CallbackGenericService::CreateReactor(context);
    return new ServedCall(context, found->second, truth_, replica_, threads_);
  }

 private:
  const int replica_;
  Lines& truth_;
  Threads& threads_;
  std::map<std::string, Method> methods_;
};

class Service {
 public:
  explicit Service(const Spec& spec)
      : spec_(spec), truth_(spec.truth), sent_(spec.sent), chance_(spec.seed), misbehaviour_(spec, chance_),
        door_(spec.replica, truth_, threads_) {
    for (const auto& [name, peer] : spec.peers) {
      peers_[name] = std::make_unique<Peer>(name, peer, misbehaviour_, sent_);
    }
    for (const auto& [name, backend] : spec.backends) backends_[name] = Backend::of(name, backend, chance_, sent_);
    const Surroundings around{chance_, misbehaviour_, work_, threads_, peers_, backends_};
    for (const auto& [path, method] : spec.methods) door_.add(path, method, around);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(spec.listen, grpc::InsecureServerCredentials());
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.SetMaxReceiveMessageSize(MOST_BYTES);
    builder.RegisterCallbackGenericService(&door_);
    server_ = builder.BuildAndStart();
    if (!server_) throw std::runtime_error("it cannot listen on " + spec.listen);
  }

  // Replaces the behaviour before.
  void become(const Behaviour& next) {
    misbehaviour_.become(next);
    for (const auto& [name, peer] : peers_) {
      const auto moved = next.addresses.find(name);
      peer->move_to(moved == next.addresses.end() ? spec_.peers.at(name).addresses : moved->second);
    }
  }

  // Accepts nothing more and waits for running calls; false if some are still running.
  bool close() {
    const auto until = std::chrono::system_clock::now() + LAST_CALLS;
    // It waits for handlers whatever its deadline says, so somebody else waits for it.
    auto closing = std::make_shared<std::promise<void>>();
    auto closed = closing->get_future();
    std::thread([this, until, closing] {
      server_->Shutdown(until);
      closing->set_value();
    }).detach();
    const bool all = closed.wait_until(until + std::chrono::milliseconds(100)) == std::future_status::ready;
    truth_.flush();
    sent_.flush();
    return all;
  }

 private:
  const Spec spec_;
  Lines truth_;
  Lines sent_;
  Chance chance_;
  Misbehaviour misbehaviour_;
  const Work work_;
  std::map<std::string, std::unique_ptr<Peer>> peers_;
  std::map<std::string, std::unique_ptr<Backend>> backends_;
  Threads threads_;
  Door door_;
  std::unique_ptr<grpc::Server> server_;
};

// Follows lines of behaviour until standard input ends or SIGTERM comes.
void obey(Service& service, int signals) {
  std::string waiting;
  while (true) {
    pollfd sources[] = {{STDIN_FILENO, POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(sources, 2, -1) < 0) continue;
    if (sources[1].revents != 0) return;
    char bytes[4096];
    const ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
    if (count <= 0) return;
    waiting.append(bytes, static_cast<size_t>(count));
    for (auto end = waiting.find('\n'); end != std::string::npos; end = waiting.find('\n')) {
      const auto line = waiting.substr(0, end);
      waiting.erase(0, end + 1);
      try {
        service.become(Behaviour::parse(line));
      } catch (const std::exception& error) {
        std::fprintf(stderr, "a command was not understood: %s: %s\n", error.what(), line.c_str());
      }
    }
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 3 || std::string(words[1]) != "--spec") {
    std::fprintf(stderr, "usage: %s --spec FILE\n", words[0]);
    return 2;
  }
  // Before any thread starts, so that none of them is ended by it.
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, nullptr);
  const int signals = signalfd(-1, &term, SFD_CLOEXEC);
  try {
    Service service(Spec::read(words[2]));
    std::puts("ready");
    std::fflush(stdout);
    obey(service, signals);
    // What still runs would use what is taken down.
    if (!service.close()) _exit(0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", words[2], error.what());
    return 1;
  }
}
