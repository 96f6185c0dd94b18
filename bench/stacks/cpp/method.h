// What one method does with a call, step by step; the steps' order is that of ../README.md.
#pragma once

#include <grpcpp/support/status.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "backend.h"
#include "chance.h"
#include "messages.h"
#include "misbehaviour.h"
#include "peer.h"
#include "served_call.h"
#include "spec.h"
#include "threads.h"
#include "work.h"

// The keys that were asked for lately: low keys are asked for more often.
class Cache {
 public:
  Cache(const CacheSpec& spec, Chance& chance) : spec_(spec), chance_(chance) {}

  int draw();
  bool has(int key);
  void fill(int key);

 private:
  const CacheSpec spec_;
  Chance& chance_;
  std::mutex mutex_;
  // When an entry ends; there are at most as many as there are keys.
  std::unordered_map<int, Steady::time_point> entries_;
};

// What all methods of the service use.
struct Surroundings {
  Chance& chance;
  Misbehaviour& misbehaviour;
  const Work& work;
  Threads& threads;
  const std::map<std::string, std::unique_ptr<Peer>>& peers;
  const std::map<std::string, std::unique_ptr<Backend>>& backends;
};

class Method {
 public:
  Method(std::string path, const MethodSpec& spec, const Surroundings& around);

  // Answers a call; the status is what it ends with.
  grpc::Status answer(ServedCall& call);

  const MethodSpec spec;

 private:
  grpc::Status serve(ServedCall& call, bool asked);
  grpc::Status work(ServedCall& call);
  grpc::Status ask(ServedCall& call);
  grpc::Status call_in_turn(ServedCall& call);
  grpc::Status call_at_once();
  grpc::Status make(const CallSpec& call);
  int converse(ServedCall& call, bool asked);
  void send(ServedCall& call, int sent, int until);

  const std::string path_;
  const Surroundings around_;
  Turn responses_;
  std::optional<Cache> cache_;
};
