"""Runs PostgreSQL's regression suite once straight at a server and again through the proxy, and compares.

Owns: running the groups with psql as `pg_regress` does, comparing result files byte by byte, and the committed
differences of a mode. Does not own: the node (`node.py`) or the suite itself (`source.py`).
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
# One run takes one to two minutes on two busy cores. What still runs then is ended, and named.
RUN_MAX_S = 300
# Of the tests in the direct run, at least so many must give what PostgreSQL's developers expect: otherwise equal
# results would only show that nothing worked on either way.
EXPECTED_MIN = 0.9
DIFFERENCE_LINES_MAX = 40
# What the proxy says on a busy machine while more tests run than the tenant has server connections. It is no result.
WAITED = re.compile(rb"^NOTICE:  waiting for a server connection\nDETAIL:  .*\n", re.MULTILINE)


class Run:
    """The results of one run: name → bytes."""

    def __init__(self, results, seconds):
        self.results, self.seconds = results, seconds


def run(source, bin_dir, work, environment, parallel):
    """Runs all groups one after another, and of each group `parallel` tests at the same time."""
    shutil.rmtree(work, ignore_errors=True)
    # COPY TO and lo_export write there too: as the server's user.
    for directory in (work, work / "results"):
        directory.mkdir()
        if os.geteuid() == 0:
            os.chown(directory, pwd.getpwnam("postgres").pw_uid, -1)
    out = work / "out"
    out.mkdir()
    psql = Path(bin_dir) / "psql"
    environment = {**environment, "PG_ABS_SRCDIR": str(source.dir), "PG_ABS_BUILDDIR": str(work),
                   "PG_LIBDIR": str(source.lib), "PG_DLSUFFIX": ".so"}
    started = time.monotonic()
    deadline = started + RUN_MAX_S

    def one(test):
        command = [psql, "-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]
        with open(source.dir / "sql" / f"{test}.sql", "rb") as sql, open(out / test, "wb") as result:
            try:
                subprocess.run(command, stdin=sql, stdout=result, stderr=subprocess.STDOUT, cwd=work,
                               env={**environment, "PGAPPNAME": f"pg_regress/{test}"},
                               timeout=max(1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                result.write(f"\n(ended: the run took longer than {RUN_MAX_S} s)\n".encode())

    with ThreadPoolExecutor(parallel) as threads:
        for group in source.groups():
            if time.monotonic() < deadline:
                list(threads.map(one, group))
    results = {}
    for test in [test for group in source.groups() for test in group]:
        file = out / test
        results[test] = file.read_bytes() if file.exists() else b"(not run: the tests before took too long)\n"
    return Run(results, time.monotonic() - started)


# ------------------------------------------------------------------------------------------- differences


def hunks(before, after):
    """Where two results differ: texts of lines with `-` and `+`, without what is around them."""
    with tempfile.NamedTemporaryFile() as first, tempfile.NamedTemporaryFile() as second:
        for file, text in ((first, before), (second, after)):
            file.write(text)
            file.flush()
        done = subprocess.run(["diff", "--text", "-U0", first.name, second.name], capture_output=True)
    found = []
    for line in done.stdout.decode(errors="replace").split("\n")[2:]:
        if line.startswith("@@"):
            found.append([])
        elif line:
            found[-1].append(line)
    return ["\n".join(hunk) for hunk in found]


class Differences:
    """What a mode is allowed to do otherwise: `<mode>.differences` beside this file.

    `== test` begins the differences of a test, `# why` gives the reason of what follows, `@@` begins one; its lines are
    those of `hunks`. Each must be there, and nothing else may be. `@@ sometimes`: it need not be there, because it depends
    on which server connection was lent. `@@ all`: the test differs throughout."""

    def __init__(self, mode):
        self.path = HERE / f"{mode}.differences"
        self.must, self.may, self.all = {}, {}, set()
        test = reason = into = None
        for number, line in enumerate(self.path.read_text().splitlines() if self.path.exists() else [], 1):
            if line.startswith("== "):
                test, reason, into = line[3:].strip(), None, None
                if test in self.must:
                    raise ValueError(f"{self.path}:{number}: {test} stands here twice")
                self.must[test], self.may[test] = [], []
            elif line.startswith("#"):
                reason = line[1:].strip()
            elif line in ("@@", "@@ sometimes", "@@ all"):
                if not test or not reason:
                    raise ValueError(f"{self.path}:{number}: a difference needs a test and a reason")
                into = []
                if line == "@@ all":
                    self.all.add(test)
                else:
                    (self.may if line.endswith("sometimes") else self.must)[test].append(into)
            elif line.startswith(("-", "+")) and into is not None:
                into.append(line)
            elif line:
                raise ValueError(f"{self.path}:{number}: {line!r}")
        for kind in (self.must, self.may):
            for test, found in kind.items():
                kind[test] = ["\n".join(hunk) for hunk in found]

    def strange(self, test, found):
        """(differences that are not listed, listed ones that are not there)"""
        must, may = self.must.get(test, []), self.may.get(test, [])
        if test in self.all:
            return [], [] if found else ["all"]
        return [hunk for hunk in found if hunk not in must + may], [hunk for hunk in must if hunk not in found]


def problem(test, direct, proxied, source, differences):
    """What is wrong with a result, or None."""
    proxied = WAITED.sub(b"", proxied)
    # Some tests have several right answers, and load decides between them.
    if proxied != direct and test not in differences.must and proxied in source.expected(test):
        return None
    new, gone = differences.strange(test, hunks(direct, proxied) if proxied != direct else [])
    if not new and not gone:
        return None
    text = "\n".join(["- straight at the server, + through the proxy", *("@@\n" + hunk for hunk in new)]).splitlines()
    if gone:
        text.append(f"{len(gone)} of {differences.path.name} are not there (any more)")
    more = len(text) - DIFFERENCE_LINES_MAX
    return "\n    ".join(text[:DIFFERENCE_LINES_MAX] + ([f"({more} more lines)"] if more > 0 else []))
