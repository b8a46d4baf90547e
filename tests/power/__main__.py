"""`python -m tests.power [WORDS]`: which faults of `faults.txt` the tests notice (those whose description has WORDS).

Each is put into a copy of the tree, and its tests run there until one fails. Ends with 1 when a fault is unnoticed, or
when its text is not found once in passl/: then the line has changed, and the fault must follow.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]


class Fault(NamedTuple):
    what: str
    tests: str  # paths and options of pytest
    old: str
    new: str


def read_faults():
    found = []
    for entry in re.split(r"^# ", Path(__file__).with_name("faults.txt").read_text(), flags=re.MULTILINE)[1:]:
        what, tests, *lines = re.split(r"^== ", entry, flags=re.MULTILINE)[0].strip("\n").split("\n")
        sides = ["".join(line[1:] + "\n" for line in lines if line[:1] != other) for other in "+-"]
        found.append(Fault(what, tests.lstrip("$ "), *sides))
    return found


def place(tree, old):
    """The file under passl/ that holds the text `old` once, and nowhere else; None otherwise."""
    counts = {path: path.read_text().count(old) for path in sorted((tree / "passl").rglob("*.py"))}
    found = [path for path, count in counts.items() if count]
    return found[0] if len(found) == 1 and counts[found[0]] == 1 else None


def passes(tree, tests):
    """Whether these tests pass in the tree; (answer, last line of what pytest says)."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:randomly", "-m", "not slow",
               *shlex.split(tests)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=1200)
    if done.returncode not in (0, 1):  # wrong paths, no test chosen, or a file that cannot be imported
        return done.returncode == 2, done.stdout.strip().splitlines()[-1:] + done.stderr.strip().splitlines()[-1:]
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, failed or done.stdout.strip().splitlines()[-1:]


def main(words):
    chosen = [fault for fault in read_faults() if all(word in fault.what for word in words)]
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, check=True,
                               capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, files):
            if (REPOSITORY / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, tree / name)
        for number, fault in enumerate(chosen, 1):
            start, path = time.time(), place(tree, fault.old)
            if path is None:
                verdict, said = "NOT FOUND", ["its text is not in passl/ exactly once"]
            else:
                text = path.read_text()
                path.write_text(text.replace(fault.old, fault.new))
                passed, said = passes(tree, fault.tests)
                verdict = "UNNOTICED" if passed else "noticed"
                path.write_text(text)
            if verdict != "noticed":
                unnoticed.append(fault.what)
            print(f"{number:3}/{len(chosen)} {verdict:9} {time.time() - start:4.0f} s  {fault.what}"
                  f"\n{'':10}{' '.join(said)[:150]}", flush=True)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed" +
          "".join(f"\n  not: {what}" for what in unnoticed))
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
