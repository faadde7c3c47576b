"""Updates Tunebench from the repository that this folder was cloned from. The workspace is not in git and stays."""
# ruff: noqa: T201

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from launcher import SetupError
from launcher.paths import ROOT

SECONDS = 600
MAX_SHOWN = 5
"""Changed files that are listed."""


def pull_update(root: Path = ROOT, git: str = "git") -> bool:
    """Fast-forward to the upstream branch. False if there is nothing newer.

    Raises:
        SetupError: not a checkout, has changes or no upstream, or both sides have commits; nothing has changed.
    """
    refuse_unless_own_checkout(root, git)
    changed = run_git(root, git, "diff", "--name-only", "HEAD").splitlines()
    if changed:
        names = ", ".join(changed[:MAX_SHOWN]) + (", ..." if len(changed) > MAX_SHOWN else "")
        raise SetupError(
            f"changed here: {len(changed)} of Tunebench's files ({names}). Nothing was updated. "
            "`git stash` lays the changes aside, `git stash pop` brings them back."
        )
    try:
        upstream = run_git(root, git, "rev-parse", "--abbrev-ref", "@{upstream}")
    except SetupError:
        raise SetupError(
            "This branch follows no branch of another repository, so there is nothing to update from. "
            "`git branch --set-upstream-to=origin/main` names one."
        ) from None
    before = run_git(root, git, "rev-parse", "--short", "HEAD")
    run_git(root, git, "pull", "--ff-only", "--quiet")
    after = run_git(root, git, "rev-parse", "--short", "HEAD")
    if before == after:
        print(f"Tunebench is at {after}, the newest of {upstream}.", flush=True)
        return False
    count = run_git(root, git, "rev-list", "--count", f"{before}..{after}")
    print(
        f"Tunebench went from {before} to {after} of {upstream}: {count} new commits. The workspace is as it was.",
        flush=True,
    )
    return True


def refuse_unless_own_checkout(root: Path, git: str) -> None:
    """Refuse a folder inside another repository, which must not be pulled."""
    try:
        top = run_git(root, git, "rev-parse", "--show-toplevel")
    except SetupError as error:
        raise SetupError(f"{root} is no git checkout, so it cannot be updated by git: {error}") from None
    if Path(top).resolve() != root.resolve():
        raise SetupError(f"{root} lies in another repository, {top}. Nothing was updated.")


def run_git(root: Path, git: str, *words: str) -> str:
    """Output of git. Raises SetupError with git's last lines if it fails; never waits for a password."""
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [git, "-C", str(root), *words],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
    except FileNotFoundError:
        raise SetupError(f"`{git}` is not installed.") from None
    except subprocess.TimeoutExpired:
        raise SetupError(f"`git {words[0]}` did not end within {SECONDS} s.") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {done.returncode}"]
        raise SetupError(f"`git {' '.join(words)}` failed: " + "\n".join(said[-MAX_SHOWN:]))
    return done.stdout.decode("utf-8", "replace").strip()
