// Does what a Behaviour says: its effects on each call, and the threads that spin. Leaks are in leaks.h, circuits in peer.h.
#pragma once

#include <grpcpp/support/status.h>

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "behaviour.h"
#include "chance.h"
#include "leaks.h"
#include "spec.h"

// Which status a call ends with, and whether half of its messages go out before.
struct Injected {
  grpc::Status status;
  bool cut;
};

class Misbehaviour {
 public:
  Misbehaviour(const Spec& spec, Chance& chance);
  ~Misbehaviour();

  std::shared_ptr<const Behaviour> now() const;
  void become(Behaviour next);

  // Tries each effect on a call; nothing lets the call go on: it is at work from here to `end`.
  std::optional<Injected> strike(const std::string& method);
  void end() { at_work_--; }

  // Reads what leaked, as often as the behaviour says.
  void walk() { memory_.walk(now()->leak_walks); }

 private:
  bool count_up_to(int most);
  void spin(int threads);

  // A thread that only uses the processor.
  struct Spinner {
    std::atomic<bool> spins{true};
    std::thread thread;
  };

  Chance& chance_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Behaviour> now_ = std::make_shared<Behaviour>();
  LeakedMemory memory_;
  LeakedConnections connections_;
  std::list<Spinner> spinners_;
  std::mutex lock_;
  std::atomic<int> at_work_{0};
};
