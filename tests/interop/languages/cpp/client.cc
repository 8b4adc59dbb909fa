// A program in C++ that always has a living token. The driver, `../run.py`, tells it over stdin what to do.
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <cstdlib>
#include <iostream>
#include <sstream>

#include "tokens.h"

static std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

static void Must(const grpc::Status& status) {
  if (status.ok()) return;
  std::cerr << status.error_message() << std::endl;
  std::exit(1);
}

static std::string Reason(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  details.ParseFromString(status.error_details());
  details.details(0).UnpackTo(&info);
  return info.reason();
}

int main() {
  Tokens tokens(Environment("WXTOKEND_TARGET"), Environment("WXTOKEND_APP"), Environment("WXTOKEND_KEY"));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, stale;
    int errcode = 0;
    words >> command >> stale >> errcode;
    if (command == "get") {
      pb::Token token;
      Must(tokens.Current(&token));
      std::cout << "got " << token.generation() << ' ' << token.access_token() << std::endl;
    } else if (command == "held") {
      std::cout << "held " << tokens.Held().generation() << ' ' << tokens.Held().access_token() << std::endl;
    } else if (command == "report") {
      pb::Outcome outcome;
      Must(tokens.Refused(stale, errcode, &outcome));
      std::cout << "reported " << pb::Outcome_Name(outcome) << ' ' << tokens.Held().generation() << std::endl;
    } else if (command == "stranger") {
      pb::GetTokenRequest request;
      request.set_app_id("nobody");
      pb::GetTokenResponse answer;
      grpc::Status status = tokens.service->GetToken(tokens.Call(seconds(5)).get(), request, &answer);
      bool known = status.error_code() == grpc::StatusCode::NOT_FOUND;
      std::cout << "refused " << (known ? "NOT_FOUND" : std::to_string(status.error_code())) << ' ' << Reason(status) << std::endl;
    }
  }
  std::_Exit(0);  // the watching thread never ends
}
