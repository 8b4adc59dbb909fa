"""Real WeChat SDKs, unchanged, with tokens from wxtokend: `python3 tests/interop/sdks/run.py [names]`.

Each is installed from its public packages into a folder outside the checkout, once for each version, and tried on a stage
of its own. It must not notice rotations, and when WeChat refuses whatever it gets, wxtokend must not begin to run in
circles with it. That binary is tried which `WXTOKEND_PROGRAM` names, else the release build.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # the checkout stays as it is
sys.path.insert(0, str(HERE.parent))

from install import installed, libraries, maven_classpath, run, unpack  # noqa: E402
from stage import LIFE, OVERLAP, Process, Router, Stage, expect, until  # noqa: E402
from trials import drive  # noqa: E402

ROTATIONS = 3
TROUBLE = 10  # seconds for which WeChat refuses every token
WORKERS = 8

LARAVEL = ("php-laravel-framework=8.83.26+dfsg-2", "php-guzzlehttp-guzzle=7.4.5-1", "php-cli", "php-curl")


# --- how they are installed ---


@functools.cache
def python_packages():
    requirements = HERE / "wechatpy/requirements.txt"
    with installed("wechatpy", sys.version, requirements.read_text()) as (folder, missing):
        if missing:
            run("wechatpy", sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "-r", requirements)
    return folder


def wechatpy():
    return ["env", f"PYTHONPATH={python_packages()}", sys.executable, HERE / "wechatpy/client.py"]


@functools.cache
def node_packages():
    manifest = HERE / "node/package.json"
    with installed("node", manifest.read_text()) as (folder, missing):
        if missing:
            shutil.copy(manifest, folder)
            options = ["--no-audit", "--no-fund", "--no-package-lock", "--silent"]
            run("co-wechat-api, node-easywechat or wechat-api", "npm", "install", *options, cwd=folder)
    return folder / "node_modules"


def node(name):
    return ["env", f"NODE_PATH={node_packages()}", "node", HERE / f"node/{name}.js"]


def silenceper():
    source = HERE / "silenceper"
    texts = [path.read_text() for path in sorted(source.iterdir())]
    with installed("silenceper", *texts) as (folder, missing):
        if missing:
            run("silenceper/wechat", "go", "build", "-o", folder / "client", ".", cwd=source)
    return [folder / "client"]


def wxjava():
    pom = HERE / "wxjava/pom.xml"
    with installed("wxjava", pom.read_text()) as (folder, missing):
        if missing:
            goal = maven_classpath(folder)
            run("WxJava", "mvn", "--quiet", "--batch-mode", "--file", pom, *goal)
    return ["java", "-cp", (folder / "classpath").read_text(), HERE / "wxjava/Client.java"]


def laravel(controller):
    packages = debian_packages()
    php = [packages / "usr/bin/php8.2", "-n", "-c", packages / "php.ini"]
    paths = ":".join(str(folder) for folder in libraries(packages))
    return ["env", f"LD_LIBRARY_PATH={paths}", *php, HERE / "laravel/client.php", controller]


@functools.cache
def debian_packages():
    """PHP and Laravel as Debian 12 has them, unpacked and not installed, whatever the machine has."""
    with installed("laravel", *LARAVEL) as (folder, missing):
        if missing:
            unpack("Laravel", folder, LARAVEL, ("php", "lib"))
            write_php_ini(folder)
    return folder


def write_php_ini(folder):
    extensions = next(folder.glob("usr/lib/php/2*"))
    lines = [
        f'include_path = "{folder}/usr/share/php"',
        f'extension_dir = "{extensions}"',
        "extension = curl",
        "extension = mbstring",
        "error_reporting = E_ALL & ~E_DEPRECATED",  # this Laravel is older than this PHP
    ]
    (folder / "php.ini").write_text("\n".join(lines))


@functools.cache
def wechat_minapp():
    source = HERE / "wechat-minapp"
    with installed("wechat-minapp", (source / "Cargo.toml").read_text()) as (folder, _):
        # Copied, since cargo writes a lock file beside the manifest. It knows itself what is still to be built.
        shutil.copytree(source, folder, dirs_exist_ok=True)
        run("wechat-minapp", "cargo", "build", "--quiet", "--target-dir", folder / "target", cwd=folder)
    return [folder / "target/debug/wechat-minapp-client"]


# --- what is tried ---


@dataclasses.dataclass(frozen=True)
class Sdk:
    """An SDK: the consumer's `sdk`, what runs its client, and where it asks for tokens."""

    margin: str | None
    command: object
    asks: str = "the token URL"  # or `one host for everything`, or `the bare page`, which no router counts


SDKS = {
    "wechatpy": Sdk("wechatpy", wechatpy),
    "co-wechat-api": Sdk("co-wechat-api", lambda: node("co-wechat-api"), "one host for everything"),
    "wechat-api": Sdk("wechat-api", lambda: node("wechat-api"), "one host for everything"),
    "node-easywechat": Sdk("node-easywechat", lambda: node("node-easywechat"), "one host for everything"),
    "silenceper": Sdk("silenceper", silenceper),
    "wxjava": Sdk("wxjava", wxjava),
    "laravel": Sdk(None, lambda: laravel("LeaseController")),
    "laravel-bare": Sdk(None, lambda: laravel("BareController"), "the bare page"),
    "wechat-minapp": Sdk("wechat-minapp", wechat_minapp),
    "wechat-minapp-normal": Sdk("wechat-minapp", lambda: [*wechat_minapp(), "normal"]),
}


class Trial:
    """An SDK on its stage. Where the token URL alone is set, that leads over a second router, which counts."""

    def __init__(self, stage, sdk, command):
        self.stage, self.command = stage, command
        self.hub = Router(stage) if sdk.asks == "the token URL" else stage.router
        self.http = stage.http if sdk.asks == "the bare page" else self.hub.url

    def start(self):
        folder = self.stage.folder.name
        environment = {**self.stage.environment(), "WXTOKEND_HTTP": self.http, "TMPDIR": folder}
        return Process(self.command, env=environment, cwd=folder)

    def generation(self):
        return self.stage.token()["generation"]

    def see_rotations(self, number):
        """Waits for so many, and until each token that was replaced is dead."""
        for _ in range(number):
            before = self.generation()
            until(lambda: self.generation() > before, "a rotation", LIFE)
        time.sleep(OVERLAP + 0.5)

    def looks(self):
        """Those that wxtokend took: WeChat counts all business calls."""
        return self.stage.counts()["looks"] - self.stage.router.calls


def ended(client):
    """Ends a client, and returns its calls and those that failed."""
    client.child.stdin.close()
    code = client.child.wait(20)
    expect(code == 0, f"the client ended with {code}")
    calls, failed = client.line("calls ").split(" failed ")
    return int(calls), int(failed)


def notices_no_rotations(trial):
    router, begin = trial.stage.router, time.monotonic()
    client = trial.start()
    until(lambda: router.calls > 0, "a first call")
    before = trial.stage.counts()["classic_mints"]
    trial.see_rotations(ROTATIONS)
    # Before another one is due; to start and to end a client may take as long as that.
    counts = trial.stage.counts()
    calls, failed = ended(client)
    seconds, reads = time.monotonic() - begin, trial.hub.token_calls

    told = f"{ROTATIONS} rotations, {calls} calls, {failed} failed, {router.refused} refused, {trial.looks()} looks"
    expect(failed == router.refused == 0, told)
    mints = counts["classic_mints"]
    expect(mints == counts["classic_fetches"] == before + ROTATIONS, f"{told}, {counts}")
    expect(before <= 2 + seconds / (LIFE / 2) - ROTATIONS, f"{before} tokens before the first call")
    expect(counts["stable_fetches"] == counts["foreign_mints"] == 0, f"somebody else fetched: {counts}")
    if trial.http == trial.stage.http:
        return f"{told}, a read for each call"
    told = f"{told}, {reads} reads in {seconds:.0f} s"
    # A lease is four fifths of the overlap at most, and has whole seconds.
    expect(seconds / OVERLAP <= reads <= seconds / (OVERLAP / 2) + 1, told)
    return told


def runs_in_no_circles(trial):
    """WeChat refuses whatever it gets. What the SDK makes of it is its own affair; in the end it works again."""
    stage, router = trial.stage, trial.stage.router
    client = trial.start()
    until(lambda: router.calls >= 5, "calls")
    before, reads, looks = stage.counts(), trial.hub.token_calls, trial.looks()
    fault = {"kind": "errcode", "endpoint": "business", "errcode": 40001, "calls": 1_000_000}
    stage.tell_wechat("knobs", json.dumps({"faults": [fault]}).encode())
    time.sleep(TROUBLE)
    stage.tell_wechat("knobs", json.dumps({"clear_faults": True}).encode())
    fetches = stage.counts()["classic_fetches"] - before["classic_fetches"]
    refused, reads, looks = router.refused, trial.hub.token_calls - reads, trial.looks() - looks
    outcome = outlived(client, router)

    told = f"refused {refused} times in {TROUBLE} s: {reads} reads, {fetches} fetches, {looks} looks; {outcome}"
    expect(refused > 0 and fetches <= 2 and looks <= TROUBLE, told)
    return told


def outlived(client, router):
    """What became of a client while WeChat refused everything: it goes on well, or it is no more."""
    time.sleep(8)  # for what wxtokend found out about the token, and for a lease
    if client.child.poll() is not None:
        return "the client died of it"
    calls, refused = router.calls, router.refused
    time.sleep(2)
    expect(router.calls > calls and router.refused == refused, "it does not get well again")
    calls, failed = ended(client)
    return f"{failed} of {calls} calls failed, then well again"


def workers_survive_a_foreign_fetch(trial):
    """Somebody else fetches twice, which ends our token at once, while many processes of one program use it."""
    stage, router = trial.stage, trial.stage.router
    workers = [trial.start() for _ in range(WORKERS)]
    until(lambda: router.calls >= WORKERS * 5, "calls")
    before, generation, begin = stage.counts(), trial.generation(), time.monotonic()
    for _ in range(2):
        stage.tell_wechat("foreign_fetch?pool=classic")
    until(lambda: trial.generation() > generation, "another token", 15)
    cured = time.monotonic() - begin
    time.sleep(15 - cured)
    fetches = stage.counts()["classic_fetches"] - before["classic_fetches"]
    refused, calls = router.refused, router.calls
    time.sleep(15)
    late, calls = router.refused - refused, router.calls - calls
    failed = sum(ended(worker)[1] for worker in workers)

    told = (
        f"{WORKERS} processes: another token after {cured:.1f} s; in 15 s {refused} calls refused and {fetches} fetches, "
        f"one of which may be planned; then {late} of {calls} refused; {failed} failed; "
        f"{trial.looks()} looks, {trial.hub.token_calls} reads in all"
    )
    expect(fetches <= 2 and late == 0 and calls > 15 * WORKERS, told)
    return told


# --- who tries it ---


def on_a_stage(sdk, command, attempt):
    with Stage(sdk=sdk.margin) as stage:
        return attempt(Trial(stage, sdk, command))


def plan(commands):
    """What is tried with whom."""
    for name, command in commands.items():
        attempts = [notices_no_rotations, runs_in_no_circles]
        if name == "wechatpy":
            attempts.append(workers_survive_a_foreign_fetch)
        for attempt in attempts:
            yield f"{name} {attempt.__name__}", functools.partial(on_a_stage, SDKS[name], command, attempt)


if __name__ == "__main__":
    drive(SDKS, lambda name: SDKS[name].command(), plan)
