"""Installs what clients in other languages need from public packages, into folders outside the checkout, once for each version."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess

from stage import Failed

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "wxtokend-ci/interop"

# Every machine has these, in a version that its dynamic linker and its compiler fit.
SYSTEM = ("libc6", "libgcc", "libstdc++", "libcrypt1", "libcrypt-dev", "libc-dev", "libc-bin", "linux-libc-dev")


@contextlib.contextmanager
def installed(name, *manifests):
    """The folder for what these manifests ask for, and whether it is still to be filled. What fails is begun anew."""
    digest = hashlib.sha256("\0".join(manifests).encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    complete = folder / "complete"
    missing = not complete.exists()
    if missing:
        print(f"installs {name}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    yield folder, missing
    complete.touch()


def run(what, *command, **more):
    """Runs a command that is needed to install `what`, and returns its output."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, **more)
    except FileNotFoundError:
        raise Failed(f"{what} cannot be installed: there is no `{words[0]}`") from None
    if done.returncode != 0:
        raise Failed(f"{what} cannot be installed: `{words[0]}` says\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def maven_classpath(folder):
    """The goals of Maven that write into `folder`/classpath what a program needs."""
    return ["org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath", f"-Dmdep.outputFile={folder / 'classpath'}"]


def unpack(what, folder, packages, prefixes):
    """Debian packages and those that they depend on, unpacked and not installed, whatever the machine has. Of them all, those whose
    names begin with one of `prefixes`."""
    apt = _apt_options(folder / "apt")
    run(what, "apt-get", *apt, "update")
    plan = run(what, "apt-get", *apt, "--simulate", "install", *packages)
    names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    names = [name for name in names if name.startswith(prefixes) and not name.startswith(SYSTEM)]
    run(what, "apt-get", *apt, "download", *names, cwd=folder / "apt")
    for package in (folder / "apt").glob("*.deb"):
        run(what, "dpkg-deb", "--extract", package, folder)
    shutil.rmtree(folder / "apt")


def libraries(folder):
    """Where the shared libraries of unpacked packages are."""
    return [*folder.glob("lib/*-linux-gnu"), *folder.glob("usr/lib/*-linux-gnu")]


def _apt_options(folder):
    """For an apt that knows of nothing installed, and writes into `folder` alone."""
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "0",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
