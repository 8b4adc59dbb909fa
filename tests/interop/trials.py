"""Runs trials at the same time and says how they went: what the drivers of this folder have in common."""

import concurrent.futures
import os
import subprocess
import sys

from stage import Failed

AT_ONCE = 12  # stages; they wait most of the time


def drive(whom, commands, plan):
    """Tries those of `whom` that the command line names, or all. `commands` says how to start one, and installs it; `plan` gives pairs
    of what is tried and a function that tries it, from the commands by name. Ends the program."""
    os.environ.setdefault("WXTOKEND_LOG", "error")
    try:
        names = _chosen(whom)
        failed = _try_all(plan({name: commands(name) for name in names}))
    except Failed as error:
        sys.exit(f"error: {error}")
    sys.exit(failed > 0)


def _chosen(whom):
    names = sys.argv[1:] or list(whom)
    unknown = [name for name in names if name not in whom]
    if unknown:
        raise Failed(f"there is no {', '.join(unknown)}; there are {', '.join(whom)}")
    return names


def _try_all(trials):
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {pool.submit(trial): what for what, trial in trials}
        for job in concurrent.futures.as_completed(jobs):
            try:
                print(f"ok      {jobs[job]}: {job.result()}", flush=True)
                passed += 1
            except (Failed, OSError, ValueError, subprocess.TimeoutExpired) as error:
                print(f"FAILED  {jobs[job]}: {error}", flush=True)
                failed += 1
    print(f"\n{passed} passed, {failed} failed")
    return failed
