"""Checks what no schema knows: that the files of deploy/ agree with each other and with Cargo.toml.

Reads what `kustomize build` printed from standard input; says everything that is wrong, then fails.
"""

import pathlib
import re
import sys
import tomllib

import yaml

ROOT = pathlib.Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
MOUNT = "/run/secrets/wxtokend/"
DRAIN = 10  # seconds: what the server takes at most to stop

problems = []


def same(what, *values):
    """Every one of `values` must equal the first."""
    if any(value != values[0] for value in values):
        problems.append(f"{what}: " + " / ".join(map(str, values)))


def main():
    """Collects the facts of each file, then compares them."""
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    config = tomllib.loads((DEPLOY / "kubernetes/wxtokend.toml").read_text())
    secret = yaml.safe_load((DEPLOY / "kubernetes/secret.example.yaml").read_text())
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    objects = [o for o in yaml.safe_load_all(sys.stdin) if o]

    stateful = only(objects, "StatefulSet")
    pod = stateful["spec"]["template"]
    container = pod["spec"]["containers"][0]

    same("rust version (Cargo.toml, Dockerfile)", package["rust-version"], found(r"^FROM rust:([\d.]+)", dockerfile))
    same(
        "image tag (Cargo.toml, kustomization, compose)",
        package["version"],
        container["image"].rpartition(":")[2],
        compose["services"]["wxtokend"]["image"].rpartition(":")[2],
    )
    same(
        "port (wxtokend.toml, container, probes, Dockerfile)",
        config["grpc"]["listen"].rpartition(":")[2],
        str(container["ports"][0]["containerPort"]),
        *(str(container[f"{probe}Probe"]["grpc"]["port"]) for probe in ("startup", "liveness", "readiness")),
        found(r"^EXPOSE (\d+)", dockerfile),
    )
    same(
        "port of metrics (wxtokend.toml, container, annotation, Dockerfile)",
        config["admin"]["listen"].rpartition(":")[2],
        str(container["ports"][1]["containerPort"]),
        pod["metadata"]["annotations"]["prometheus.io/port"],
        found(r"^EXPOSE \d+ (\d+)", dockerfile),
    )
    same("user (pod, Dockerfile)", str(pod["spec"]["securityContext"]["runAsUser"]), found(r"^USER (\d+)", dockerfile))
    same("arguments (Dockerfile, pod)", yaml.safe_load(found(r"^CMD (.*)", dockerfile)), container["args"])
    same("replicas", 1, stateful["spec"]["replicas"])

    needed = sorted(
        path.removeprefix(MOUNT)
        for table in config["app"] + config["consumer"]
        for path in (table.get("secret_file"), table.get("key_file"))
        if path
    )
    same(f"files in {MOUNT} (wxtokend.toml, Secret, compose)", needed, sorted(secret["stringData"]), sorted(compose["secrets"]))
    same("the Secret's name (pod, example)", volume(pod, "secrets")["secret"]["secretName"], secret["metadata"]["name"])
    same("the ConfigMap's name (pod, generated)", volume(pod, "config")["configMap"]["name"], only(objects, "ConfigMap")["metadata"]["name"])

    labels = pod["metadata"]["labels"]
    for selecting in objects:
        selector = selecting["spec"].get("selector") if "spec" in selecting else None
        if selector:
            same(f"labels ({selecting['kind']}, pod)", selector.get("matchLabels", selector), labels)

    grace = pod["spec"]["terminationGracePeriodSeconds"]
    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"] + DRAIN
    if grace <= stop:
        problems.append(f"terminationGracePeriodSeconds {grace} does not cover preStop and drain, {stop}")


def only(objects, kind):
    """The one object of this kind."""
    matching = [o for o in objects if o["kind"] == kind]
    if len(matching) != 1:
        sys.exit(f"error: {len(matching)} objects of kind {kind}, not 1")
    return matching[0]


def volume(pod, name):
    """A pod's volume."""
    return next(v for v in pod["spec"]["volumes"] if v["name"] == name)


def found(pattern, text):
    """What a line of `text` holds, or nothing, which then equals nothing else."""
    match = re.search(pattern, text, re.MULTILINE)
    return match and match[1]


main()
if problems:
    sys.exit("\n".join(f"error: {problem}" for problem in problems))
print("deploy/ agrees with itself")
