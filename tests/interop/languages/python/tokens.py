"""Always a living token."""

# To generate `wxtokend.v1`:
#
#     pip install grpcio grpcio-tools
#     python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. proto/wxtokend/v1/token_service.proto

import random
import threading
import time

import grpc
from wxtokend.v1 import token_service_pb2 as pb
from wxtokend.v1 import token_service_pb2_grpc as rpc


class Tokens:
    """The newest token of an app: watched, and asked for only if there is no news."""

    def __init__(self, target, app, key):
        options = [
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_reconnect_backoff_ms", 10_000),
        ]
        if target.startswith("unix:"):  # otherwise it sends the path, which is no authority in HTTP/2
            options.append(("grpc.default_authority", "localhost"))
        self.service = rpc.TokenServiceStub(grpc.insecure_channel(target, options))
        self.app, self.key = app, [("authorization", f"Bearer {key}")]
        self.held, self.keep_until, self.lock = pb.Token(), 0, threading.Lock()
        threading.Thread(target=self.watch, daemon=True).start()

    def current(self):
        if time.monotonic() >= self.keep_until:
            request = pb.GetTokenRequest(app_id=self.app)
            self.take(self.service.GetToken(request, timeout=11, metadata=self.key).token)
        return self.held

    def refused(self, token, errcode):
        """WeChat answered `errcode` (40001, 40014 or 42001): then `held` is one that works. Try once more."""
        request = pb.ForceRefreshRequest(app_id=self.app, stale_token=token, errcode=errcode)
        answer = self.service.ForceRefresh(request, timeout=15, metadata=self.key)
        self.take(answer.token)
        return answer.outcome

    def watch(self):
        pause = 0.1
        while True:
            try:
                request = pb.WatchTokenRequest(app_id=self.app, known_generation=self.held.generation)
                for message in self.service.WatchToken(request, metadata=self.key, wait_for_ready=True):
                    self.take(message.token)
                    pause = 0.1
            except grpc.RpcError:
                pass  # the last token is good for its `keep_for`
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, 10)

    def take(self, token):
        with self.lock:
            # An older one only if there is no other any more.
            if token.generation >= self.held.generation or time.monotonic() >= self.keep_until:
                self.held = token
                self.keep_until = time.monotonic() + token.keep_for.ToTimedelta().total_seconds()
