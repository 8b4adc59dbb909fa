// Always a living token. To generate `wxtokend/v1`:
//
//     protoc -Iproto --cpp_out=. --grpc_out=. --plugin=protoc-gen-grpc="$(which grpc_cpp_plugin)" \
//         proto/wxtokend/v1/token_service.proto
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "wxtokend/v1/token_service.grpc.pb.h"

namespace pb = wxtokend::v1;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds, std::chrono::seconds, std::chrono::nanoseconds;

// The newest token of an app: watched, and asked for only if there is no news. It lives as long as the program.
class Tokens {
 public:
  Tokens(const std::string& target, std::string app, std::string key) : app_(std::move(app)), key_(std::move(key)) {
    grpc::ChannelArguments options;
    options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
    options.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
    options.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 10'000);
    auto channel = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), options);
    service = pb::TokenService::NewStub(channel);
    std::thread([this] { Watch(); }).detach();
  }

  grpc::Status Current(pb::Token* token) {
    {
      std::lock_guard guard(lock_);
      if (Clock::now() < keep_until_) {
        *token = held_;
        return grpc::Status::OK;
      }
    }
    pb::GetTokenRequest request;
    request.set_app_id(app_);
    pb::GetTokenResponse answer;
    auto context = Call(seconds(11));
    grpc::Status status = service->GetToken(context.get(), request, &answer);
    if (status.ok()) *token = Take(answer.token());
    return status;
  }

  // WeChat answered `errcode` (40001, 40014 or 42001): then `Held` is one that works. Try once more.
  grpc::Status Refused(const std::string& token, int errcode, pb::Outcome* outcome) {
    pb::ForceRefreshRequest request;
    request.set_app_id(app_);
    request.set_stale_token(token);
    request.set_errcode(errcode);
    pb::ForceRefreshResponse answer;
    auto context = Call(seconds(15));
    grpc::Status status = service->ForceRefresh(context.get(), request, &answer);
    if (status.ok()) Take(answer.token()), *outcome = answer.outcome();
    return status;
  }

  pb::Token Held() {
    std::lock_guard guard(lock_);
    return held_;
  }

  std::unique_ptr<grpc::ClientContext> Call(nanoseconds limit = nanoseconds::max()) {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("authorization", "Bearer " + key_);
    if (limit != nanoseconds::max()) context->set_deadline(std::chrono::system_clock::now() + limit);
    return context;
  }

  std::unique_ptr<pb::TokenService::Stub> service;

 private:
  void Watch() {
    std::minstd_rand random{std::random_device{}()};
    for (milliseconds pause{100};; pause = std::min<milliseconds>(pause * 2, seconds(10))) {
      pb::WatchTokenRequest request;
      request.set_app_id(app_);
      request.set_known_generation(Held().generation());
      auto context = Call();
      context->set_wait_for_ready(true);  // older versions of gRPC put off the connection with each call that fails
      auto stream = service->WatchToken(context.get(), request);
      for (pb::WatchTokenResponse message; stream->Read(&message); pause = milliseconds(100)) Take(message.token());
      stream->Finish();  // whatever it was: the last token is good for its `keep_for`
      std::this_thread::sleep_for(pause * std::uniform_real_distribution(0.5, 1.0)(random));
    }
  }

  pb::Token Take(const pb::Token& token) {
    std::lock_guard guard(lock_);
    // An older one only if there is no other any more.
    if (token.generation() >= held_.generation() || Clock::now() >= keep_until_) {
      held_ = token;
      keep_until_ = Clock::now() + seconds(token.keep_for().seconds()) + nanoseconds(token.keep_for().nanos());
    }
    return held_;
  }

  const std::string app_, key_;
  std::mutex lock_;
  pb::Token held_;
  Clock::time_point keep_until_;
};
