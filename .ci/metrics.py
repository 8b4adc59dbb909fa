"""Runs the server with its simulated WeChat and looks at its metrics as Prometheus does.

Fails if `promtool check metrics` says anything, if a metric that the contract promises or an alert
uses is not there, or if what was done does not show. The argument is the path of promtool.
"""

import os
import pathlib
import re
import subprocess
import sys
import threading
import urllib.request

ROOT = pathlib.Path(__file__).parent.parent
PROGRAM = ROOT / "target/debug/wxtokend"
PATIENCE = 30  # seconds

# The contract: name and labels.
PROMISED = """
token_expire_timestamp_seconds{app} token_generation{app} refreshes_total{app,result,errcode}
refresh_duration_seconds{app} forced_total{app,outcome} replacement_budget_remaining{app}
foreign_rotations_total{app} suspect{app} watch_streams{app} watch_streams_behind{app}
rotation_delivery_seconds{app} requests_total{method,code} request_duration_seconds{method}
build_info{version} clock_seconds{} holder{app}
""".split()


def main():
    """Starts the server, does what callers do, and looks."""
    listen = {"WXTOKEND__GRPC__LISTEN": "127.0.0.1:0", "WXTOKEND__ADMIN__LISTEN": "127.0.0.1:0"}
    server = subprocess.Popen(
        [PROGRAM, "serve", "--sandbox"], env=os.environ | listen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(PATIENCE, server.kill)
    watchdog.start()
    try:
        urls = {}
        while not {"grpc", "admin"} <= urls.keys():
            line = server.stdout.readline() or sys.exit("error: the server ended: " + server.stderr.read())
            name, url = line.split()
            urls[name] = url
        call(urls["grpc"])
        page = read(urls["admin"] + "/metrics")
        problems = [*lint(page), *missing(page), *uncounted(page)]
    finally:
        server.terminate()
        code = server.wait()
        watchdog.cancel()
    if code:
        problems.append(f"the server ended with {code}")
    if problems:
        sys.exit("\n".join(f"error: {problem}" for problem in problems))
    print(f"{len(page.splitlines())} lines of metrics are clean")


def call(endpoint):
    """Two calls that succeed and one that fails."""

    def run(*arguments, code=0):
        ended = subprocess.run([PROGRAM, *arguments, "--endpoint", endpoint], capture_output=True, text=True, timeout=PATIENCE)
        if ended.returncode != code:
            sys.exit(f"error: {arguments[0]} ended with {ended.returncode}: {ended.stderr}")
        return ended.stdout.strip()

    token = run("get", "sandbox")
    run("refresh", "sandbox", "--token", token)
    run("get", "nothing", code=1)


def read(url):
    """The page at `url`, which must be in the format that every Prometheus reads."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        if not answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"):
            sys.exit(f"error: {url} is {answer.headers['Content-Type']}")
        return answer.read().decode()


def lint(page):
    """What promtool says."""
    checked = subprocess.run([sys.argv[1], "check", "metrics"], input=page, capture_output=True, text=True, timeout=PATIENCE)
    yield from (checked.stdout + checked.stderr).splitlines()
    if checked.returncode:
        yield f"promtool ended with {checked.returncode}"


def missing(page):
    """Metrics that are promised or used, and not there."""
    there = {}
    for name, _, labels in re.findall(r"^(\w+)({([^}]*)})? ", page, re.MULTILINE):
        family = re.sub("_(bucket|sum|count)$", "", name)
        labels = set(re.findall(r'(\w+)="', labels)) - {"le"}
        there.setdefault(family, set()).add(frozenset(labels))
    for name, labels in (re.fullmatch(r"(\w+){(.*)}", metric).groups() for metric in PROMISED):
        if there.get("wxtokend_" + name) != {frozenset(labels.split(",")) - {""}}:
            yield f"{name} must be there with the labels {labels}"
    alerts = (ROOT / "deploy/alerts.yaml").read_text()
    used = set(re.findall(r"wxtokend_\w+", alerts))
    yield from (f"deploy/alerts.yaml uses {name}, which is not there" for name in used - there.keys())


def uncounted(page):
    """What was done and does not show."""
    for series in [
        'requests_total{method="GetToken",code="OK"} 1',
        'requests_total{method="GetToken",code="NOT_FOUND"} 1',
        'requests_total{method="ForceRefresh",code="OK"} 1',
        'forced_total{app="sandbox",outcome="still_valid"} 1',
        'refreshes_total{app="sandbox",result="rotated",errcode="0"} 1',
        'token_usable{app="sandbox"} 1',
        "ready 1",
        "live 1",
    ]:
        if f"\nwxtokend_{series}\n" not in page:
            yield f"`{series}` is not there"


main()
