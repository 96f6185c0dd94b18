// How effects strike.
#include "misbehaviour.h"

#include <cmath>

#include "work.h"

Misbehaviour::Misbehaviour(const Spec& spec, Chance& chance) : chance_(chance), connections_(spec) {}

Misbehaviour::~Misbehaviour() { spin(0); }

std::shared_ptr<const Behaviour> Misbehaviour::now() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return now_;
}

// Only the thread that reads standard input comes here.
void Misbehaviour::become(Behaviour next) {
  memory_.become(next.leak_bytes_per_second, next.leak_limit_bytes);
  connections_.become(next.leak_connections_per_second);
  spin(next.spin_threads);
  const std::lock_guard<std::mutex> lock(mutex_);
  now_ = std::make_shared<Behaviour>(std::move(next));
}

std::optional<Injected> Misbehaviour::strike(const std::string& method) {
  const auto behaviour = now();
  bool counted = false;
  for (const auto& effect : behaviour->effects) {
    if (effect.method && *effect.method != method) continue;
    if (effect.fraction < 1 && chance_.draw() >= effect.fraction) continue;
    pause(effect.delay_ms + (effect.jitter_ms > 0 ? -effect.jitter_ms * std::log(1 - chance_.draw()) : 0));
    if (effect.lock_ms > 0) {
      const std::lock_guard<std::mutex> lock(lock_);
      pause(effect.lock_ms);
    }
    if (effect.status == 0) continue;
    if (effect.max_in_flight > 0 && (counted || count_up_to(effect.max_in_flight))) {
      counted = true;
      continue;
    }
    if (counted) end();
    return Injected{grpc::Status(static_cast<grpc::StatusCode>(effect.status), "injected"), effect.cut};
  }
  if (!counted) at_work_++;
  return std::nullopt;
}

// Takes a place among so many calls at work; false when there is none. Calls that are refused take none.
bool Misbehaviour::count_up_to(int most) {
  int calls = at_work_.load();
  while (calls < most) {
    if (at_work_.compare_exchange_weak(calls, calls + 1)) return true;
  }
  return false;
}

void Misbehaviour::spin(int threads) {
  while (spinners_.size() < static_cast<size_t>(threads)) {
    Spinner& spinner = spinners_.emplace_back();
    spinner.thread = std::thread([&spinner] {
      // Results go where the compiler cannot see that nobody reads them.
      volatile uint64_t result = 0;
      while (spinner.spins) result = Work::rounds(10'000 + (result & 1));
    });
  }
  while (spinners_.size() > static_cast<size_t>(threads)) {
    spinners_.back().spins = false;
    spinners_.back().thread.join();
    spinners_.pop_back();
  }
}
