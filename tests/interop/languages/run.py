"""gRPC clients in other languages, generated from our proto: `python3 tests/interop/languages/run.py [names]`.

Each is built with its language's own gRPC library from public packages, outside the checkout, once for each version, and holds the
newest token on a stage of its own, while wxtokend rotates tokens, is killed, drained and told of a dead token. All that time WeChat
is called with what the client holds. That binary is tried which `WXTOKEND_PROGRAM` names, else the release build.
"""

import functools
import json
import os
import pathlib
import shutil
import sys
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # the checkout stays as it is
sys.path.insert(0, str(HERE.parent))

from install import installed, libraries, maven_classpath, run, unpack  # noqa: E402
from stage import DEAD_TOKEN, LIFE, OVERLAP, ROOT, Failed, Process, Stage, expect, until  # noqa: E402
from trials import drive  # noqa: E402

PROTO = "wxtokend/v1/token_service.proto"
GO_PACKAGE = "wxtokend.example/client/wxtokendv1"
CPP = ("libgrpc++-dev", "libprotobuf-dev", "protobuf-compiler-grpc", "protobuf-compiler")

ROTATIONS = 2


# --- how they are built ---


def sources(folder):
    """What a client is made of: the proto and all of its own files."""
    paths = [ROOT / "proto" / PROTO, *sorted(folder.iterdir())]
    return [path.read_text() for path in paths if path.is_file()]


@functools.cache
def python_packages():
    """gRPC's packages, which bring a `protoc` with them, and what that makes of the proto."""
    requirements, proto = HERE / "python/requirements.txt", ROOT / "proto" / PROTO
    with installed("grpc-python", sys.version, requirements.read_text(), proto.read_text()) as (folder, missing):
        if missing:
            run("grpcio", sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "-r", requirements)
            protoc(folder, "--python_out", folder, "--grpc_python_out", folder, PROTO)
    return folder


def protoc(packages, *options, **more):
    environment = {**os.environ, "PYTHONPATH": packages}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "proto", "-I", packages]
    run("the generated code", *command, *options, env=environment, **more)


def python(program):
    return ["env", f"PYTHONPATH={python_packages()}", sys.executable, HERE / "python" / program]


def node():
    manifest = HERE / "node/package.json"
    with installed("grpc-js", manifest.read_text()) as (folder, missing):
        if missing:
            shutil.copy(manifest, folder)
            run("grpc-js", "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent", cwd=folder)
    return ["env", f"NODE_PATH={folder / 'node_modules'}", "node", HERE / "node/client.js"]


def go():
    source, packages = HERE / "go", python_packages()
    with installed("grpc-go", *sources(source)) as (folder, missing):
        if missing:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            plugins = ["google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc"]
            run("grpc-go", "go", "build", "-o", folder, *plugins, cwd=folder)
            options = [f"--{out}_opt=module={GO_PACKAGE.rpartition('/')[0]}" for out in ("go", "go-grpc")]
            options += [f"--{out}_opt=M{PROTO}={GO_PACKAGE}" for out in ("go", "go-grpc")]
            options += [f"--plugin={folder / name.rpartition('/')[2]}" for name in plugins]
            protoc(packages, *options, "--go_out", folder, "--go-grpc_out", folder, PROTO)
            run("grpc-go", "go", "build", "-o", folder / "client", ".", cwd=folder)
    return [folder / "client"]


def java():
    source = HERE / "java"
    with installed("grpc-java", *sources(source)) as (folder, missing):
        if missing:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            goals = ["compile", *maven_classpath(folder)]
            run("grpc-java", "mvn", "--quiet", "--batch-mode", f"-Dproto={ROOT / 'proto'}", *goals, cwd=folder)
    classpath = f"{folder / 'target/classes'}:{(folder / 'classpath').read_text()}"
    return ["java", "-cp", classpath, "Client"]


def cpp():
    source, packages, debian = HERE / "cpp", python_packages(), cpp_packages()
    with installed("grpc-cpp", *sources(source)) as (folder, missing):
        if missing:
            build_cpp(folder, source, packages, debian)
    return ["env", f"LD_LIBRARY_PATH={paths(debian)}", folder / "client"]


def cpp_packages():
    with installed("grpc-cpp-debian", *CPP) as (folder, missing):
        if missing:
            unpack("gRPC for C++", folder, CPP, ("lib", "protobuf", "zlib"))
    return folder


def build_cpp(folder, source, packages, debian):
    """With Debian's own `protoc`, as generated code must be of the same version as the library. The protos of gRPC's details about
    errors come with Python's packages."""
    protos = [PROTO, "google/rpc/status.proto", "google/rpc/error_details.proto"]
    includes = ["-I", ROOT / "proto", "-I", packages, "-I", debian / "usr/include"]
    options = [f"--plugin=protoc-gen-grpc={debian / 'usr/bin/grpc_cpp_plugin'}", f"--cpp_out={folder}", f"--grpc_out={folder}"]
    environment = {**os.environ, "LD_LIBRARY_PATH": paths(debian)}
    run("gRPC for C++", debian / "usr/bin/protoc", *includes, *options, *protos, env=environment)
    generated = [folder / proto.replace(".proto", ".pb.cc") for proto in protos] + [folder / PROTO.replace(".proto", ".grpc.pb.cc")]
    search = ["-I", folder, "-I", debian / "usr/include"]
    for library in libraries(debian):
        search += ["-L", library, f"-Wl,-rpath-link={library}"]
    linked = ["-pthread", "-Wl,--copy-dt-needed-entries", "-lgrpc++", "-lprotobuf"]
    run("gRPC for C++", "g++", "-std=c++17", "-O1", "-o", folder / "client", source / "client.cc", *generated, *search, *linked)


def paths(folder):
    return ":".join(str(path) for path in libraries(folder))


LANGUAGES = {
    "python": lambda: python("client.py"),
    "python-asyncio": lambda: python("client_asyncio.py"),
    "node": node,
    "go": go,
    "java": java,
    "cpp": cpp,
}


# --- what is tried ---


class Client:
    """A client that is told what to do, one thing at a time."""

    def __init__(self, stage, command, **environment):
        self.process = Process(command, env={**stage.environment(), **environment})
        self.lock = threading.Lock()
        self.ask("get")

    def ask(self, *words):
        """Its answer, without the first word, which says what kind of answer it is."""
        with self.lock:
            lines, before = self.process.lines, len(self.process.lines)
            self.process.child.stdin.write(" ".join(str(word) for word in words) + "\n")
            self.process.child.stdin.flush()
            until(lambda: len(lines) > before or self.process.child.poll() is not None, f"an answer to `{words[0]}`", 20)
            if len(lines) == before:
                raise Failed(f"the client ended with {self.process.child.returncode}")
            return lines[before].split(" ")[1:]

    def held(self):
        """The generation and the token that it would use without asking anybody."""
        generation, token = self.ask("held")
        return int(generation), token

    def end(self):
        self.process.child.stdin.close()
        code = self.process.child.wait(20)
        expect(code == 0, f"the client ended with {code}")


class Business:
    """Calls WeChat all the time with what the client holds."""

    def __init__(self, stage, client):
        self.stage, self.client = stage, client
        self.calls, self.refused, self.over = 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def call(self, token):
        url = f"{self.stage.wechat}/cgi-bin/getcallbackip?access_token={token}"
        with urllib.request.urlopen(url, timeout=5) as reply:
            return json.load(reply).get("errcode", 0)

    def _work(self):
        while not self.over.wait(0.05):
            _, token = self.client.held()
            self.calls += 1
            self.refused += self.call(token) in DEAD_TOKEN

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Trial:
    def __init__(self, stage, client):
        self.stage, self.client = stage, client

    def follows_rotations(self, number=1):
        """By the stream alone: `held` asks nobody."""
        for _ in range(number):
            before, _ = self.client.held()
            until(lambda: self.client.held()[0] > before, "a rotation at the client", LIFE + 5)
        time.sleep(OVERLAP + 0.5)  # until what was replaced is dead

    def survives_a_kill(self):
        self.stage.server.child.kill()
        self.stage.server.child.wait()
        self.stage.start()
        self.follows_rotations()

    def survives_a_drain(self):
        self.stage.stop()
        self.stage.start()
        self.follows_rotations()

    def gets_a_reason(self):
        told = self.client.ask("stranger")
        expect(told == ["NOT_FOUND", "UNKNOWN_APP"], f"a stranger's app: {told}")

    def gets_a_report_answered(self, business):
        """Of a token that died, the same one once more, and one that lives."""
        generation, token = self.client.held()
        self.stage.tell_wechat("revoke?pool=classic")
        errcode = business.call(token)
        expect(errcode in DEAD_TOKEN, f"a revoked token: {errcode}")
        outcome, newer = self.client.ask("report", token, errcode)
        expect(outcome == "OUTCOME_REFRESHED" and int(newer) > generation, f"a dead token: {outcome} {newer}")
        told = self.client.ask("report", token, errcode)
        expect(told == ["OUTCOME_ALREADY_NEWER", newer], f"a report that is late: {told}")
        _, token = self.client.held()
        expect(business.call(token) == 0, "the new token does not work")
        told = self.client.ask("report", token, errcode)
        expect(told == ["OUTCOME_STILL_VALID", newer], f"a living token: {told}")


def lives_through_it_all(stage, command):
    client = Client(stage, command)
    trial = Trial(stage, client)
    with Business(stage, client) as business:
        trial.gets_a_reason()
        trial.follows_rotations(ROTATIONS)
        trial.survives_a_kill()
        trial.survives_a_drain()
    told = f"{business.calls} calls of WeChat, {business.refused} refused"
    expect(business.refused == 0 and business.calls > 100, told)
    trial.gets_a_report_answered(business)
    client.end()
    counts = stage.counts()
    expect(counts["foreign_mints"] == 0, f"somebody else fetched: {counts}")
    return f"rotations, a kill, a drain: {told}; reports of a dead, an old and a living token"


def follows_a_sidecar(stage, command):
    """Over a unix socket, and without a key."""
    with stage.sidecar() as socket:
        client = Client(stage, command, WXTOKEND_TARGET=f"unix:{socket}", WXTOKEND_KEY="none")
        Trial(stage, client).follows_rotations()
        token, known = client.held()[1], stage.token()["access_token"]
        client.end()
    expect(token == known, "it holds another token than the server")
    return "a rotation over a unix socket"


def on_a_stage(trial, command):
    with Stage() as stage:
        return trial(stage, command)


def plan(commands):
    for name, command in commands.items():
        yield name, functools.partial(on_a_stage, lives_through_it_all, command)
        # Java's takes another channel for that.
        if name != "java":
            yield f"{name} at a sidecar", functools.partial(on_a_stage, follows_a_sidecar, command)


if __name__ == "__main__":
    drive(LANGUAGES, lambda name: LANGUAGES[name](), plan)
