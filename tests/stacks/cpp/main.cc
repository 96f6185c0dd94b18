#include "peer.h"

int main(int count, char** words) {
  std::map<std::string, std::string> flags;
  for (int i = 2; i + 1 < count; i += 2) flags[words[i]] = words[i + 1];
  Ledger ledger(flags["--truth"]);
  if (count > 1 && std::string(words[1]) == "server") {
    // An IPv6 address stands in brackets before its port.
    const auto address = flags["--listen"];
    const auto host = address.find(':') == std::string::npos ? address : "[" + address + "]";
    serve(host + ":" + flags["--port"], std::stoi(flags["--age"]), ledger);
    return 0;
  }
  std::vector<Plan> plans;
  std::ifstream scenario(flags["--scenario"]);
  for (std::string line; std::getline(scenario, line);) plans.emplace_back(line);
  call(flags["--target"], flags["--authority"], plans, ledger);
}
