"""Where clients in other languages are tried: a simulated WeChat, wxtokend in front of it, and a path router.

    WeChat  <--  wxtokend  <--  gRPC clients, sidecars, SDKs whose token URL can be set
       ^            ^
       +--- router -+---------  SDKs that know one host for everything: token paths go to wxtokend, all others to WeChat

The router counts what WeChat refused. Everything listens on 127.0.0.1, on free ports.
"""

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("WXTOKEND_PROGRAM", ROOT / "target/release/wxtokend")

APPID = "wx5a9db0c5a9db0c01"
SECRET = "5a9db0c05a9db0c05a9db0c05a9db0c0"  # what the sandbox's only account has
KEY = "key-of-interop"

LIFE = 20  # seconds; classic refreshes after half of it
OVERLAP = 6

TOKEN_PATHS = ("/cgi-bin/token", "/cgi-bin/stable_token")
DEAD_TOKEN = (40001, 40014, 42001)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Failed(Exception):
    """What was promised did not happen."""


def expect(fact, otherwise):
    if not fact:
        raise Failed(otherwise)


def until(fact, what, seconds=30):
    """Waits for `fact()` to be true, not for ever."""
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            raise Failed(f"this did not happen within {seconds} s: {what}")
        time.sleep(0.02)


class Process:
    """A child whose lines of stdout can be waited for."""

    def __init__(self, command, **more):
        self.lines = []
        self.child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            **more,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))

    def line(self, begin, seconds=60):
        """The first line that begins so, without its begin."""

        def found():
            if self.child.poll() is not None and not any(line.startswith(begin) for line in self.lines):
                time.sleep(0.2)  # its last lines may still be on their way
            return [line for line in self.lines if line.startswith(begin)]

        until(lambda: found() or self.child.poll() is not None, f"a line `{begin}…`", seconds)
        if not found():
            raise Failed(f"it ended with {self.child.returncode} and said no line `{begin}…`: {self.lines}")
        return found()[0][len(begin) :]

    def end(self, seconds=15):
        """Asks it to stop, and returns its exit code."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise Failed("it does not stop") from None


class Stage:
    """WeChat, wxtokend and the router. `mode` is WeChat's: `classic` or `stable`; `sdk` is the consumer's."""

    def __init__(self, mode="classic", sdk=None, margin=None):
        self.folder = tempfile.TemporaryDirectory()
        self.grpc_port, self.http_port = free_port(), free_port()
        self.grpc = f"http://127.0.0.1:{self.grpc_port}"
        self.http = f"http://127.0.0.1:{self.http_port}"
        self.mode, self.sdk, self.margin = mode, sdk, margin

    def __enter__(self):
        command = [PROGRAM, "sandbox", "--listen", "127.0.0.1:0", "--life", f"{LIFE}s", "--overlap", f"{OVERLAP}s"]
        self._wechat = Process(command)
        self.wechat = self._wechat.line("sandbox ")
        path = pathlib.Path(self.folder.name)
        (path / "wxtokend.toml").write_text(self._config(path))
        (path / "secret").write_text(SECRET)
        (path / "key").write_text(KEY)
        self.start()
        self.router = Router(self)
        return self

    def __exit__(self, *_):
        self.router.close()
        self.server.child.kill()
        self._wechat.child.kill()
        self.folder.cleanup()

    def _config(self, path):
        margin = f'sdk = "{self.sdk}"' if self.sdk else f'margin = "{self.margin or 0}s"'
        return f"""
            [grpc]
            listen = "127.0.0.1:{self.grpc_port}"
            [http]
            listen = "127.0.0.1:{self.http_port}"
            [store]
            path = "{path}/data"
            [upstream]
            base_urls = ["{self.wechat}"]
            [refresh]
            overlap = "{OVERLAP}s"
            [[app]]
            appid = "{APPID}"
            name = "shop"
            mode = "{self.mode}"
            secret_file = "{path}/secret"
            [[consumer]]
            name = "interop"
            key_file = "{path}/key"
            apps = ["shop"]
            {margin}
        """

    def start(self):
        """Starts wxtokend, and waits until it has a token."""
        self.server = Process([PROGRAM, "serve", "--config", pathlib.Path(self.folder.name) / "wxtokend.toml"])
        self.server.line("grpc ")
        until(lambda: self.token()["generation"] > 0, "a first token")

    def stop(self):
        """Drains wxtokend as a rolling update does."""
        code = self.server.end()
        if code != 0:
            raise Failed(f"wxtokend ended with {code}")

    @contextlib.contextmanager
    def sidecar(self):
        """Runs one, and gives its socket."""
        path = pathlib.Path(self.folder.name)
        (path / "agent.toml").write_text(f"""
            [agent]
            servers = ["{self.grpc}"]
            key_file = "{path}/key"
            apps = ["shop"]
            [grpc]
            listen = "unix:{path}/agent.sock"
        """)
        process = Process([PROGRAM, "agent", "--config", path / "agent.toml"])
        try:
            process.line("grpc ")
            yield path / "agent.sock"
        finally:
            process.child.kill()

    def token(self):
        request = urllib.request.Request(f"{self.http}/v1/apps/shop/token", headers={"Authorization": f"Bearer {KEY}"})
        try:
            with urllib.request.urlopen(request, timeout=15) as reply:
                return json.load(reply)
        except OSError:
            return {"generation": 0}

    def counts(self):
        """What WeChat was asked: `classic_fetches`, `stable_fetches`, `forced_fetches`, `looks`, `…_mints`."""
        with urllib.request.urlopen(f"{self.wechat}/sandbox/state", timeout=5) as reply:
            return json.load(reply)["counts"]

    def tell_wechat(self, what, body=b""):
        """Turns the sandbox's knobs: `revoke?pool=classic`, `foreign_fetch?pool=classic`, `knobs`."""
        urllib.request.urlopen(urllib.request.Request(f"{self.wechat}/sandbox/{what}", data=body, method="POST"), timeout=5)

    def environment(self):
        """What a client is told, over the environment."""
        return {
            **os.environ,
            "WXTOKEND_ENDPOINT": self.grpc,
            "WXTOKEND_TARGET": f"127.0.0.1:{self.grpc_port}",
            "WXTOKEND_HTTP": self.http,
            "WXTOKEND_APP": "shop",
            "WXTOKEND_KEY": KEY,
            "WECHAT_APPID": APPID,
            "WECHAT_URL": self.router.url,
        }


class Router:
    """Passes token paths on to wxtokend and everything else to WeChat, and counts."""

    def __init__(self, stage):
        self.calls = 0  # business calls
        self.refused = 0  # of them, those whose token WeChat did not accept
        self.token_calls = 0
        self._lock = threading.Lock()
        router = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self):
                try:
                    self.pass_on()
                except ConnectionError:
                    pass  # the client has lost its patience

            def pass_on(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                is_token = urllib.parse.urlsplit(self.path).path in TOKEN_PATHS
                base = urllib.parse.urlsplit(stage.http if is_token else stage.wechat)
                upstream = http.client.HTTPConnection(base.hostname, base.port, timeout=20)
                keep = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "authorization")}
                upstream.request(self.command, self.path, body, keep)
                reply = upstream.getresponse()
                data = reply.read()
                router.count(is_token, data)
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.getheader("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def count(self, is_token, data):
        with self._lock:
            if is_token:
                self.token_calls += 1
                return
            self.calls += 1
            try:
                refused = json.loads(data).get("errcode") in DEAD_TOKEN
            except (ValueError, AttributeError):
                refused = False
            self.refused += refused

    def close(self):
        self._server.shutdown()
        self._server.server_close()
