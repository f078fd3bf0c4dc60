"""PostgreSQL's own regression suite, of the version that is installed.

Owns: fetching the source package of Debian (or whoever the server came from) without changing what apt knows on this
machine, building the one library that the suite loads, and keeping both in a cache. Does not own: running it.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

APT = Path("/etc/apt")
# Loaded by tests beside regress.so; they come with the server's contrib.
CONTRIB = ("autoinc.so", "refint.so")


class Unavailable(Exception):
    """This machine cannot have the suite, and why."""


class Source:
    """`dir` has sql, expected, data and the schedule; `lib` the libraries. Both readable by the server."""

    def __init__(self, home, version):
        self.dir, self.lib, self.version = home / "regress", home / "lib", version

    def groups(self):
        """Names of tests, in groups that run at the same time, as PostgreSQL's developers run them."""
        lines = (self.dir / "parallel_schedule").read_text().splitlines()
        return [line.split()[1:] for line in lines if line.startswith("test:")]

    def expected(self, test):
        """All texts that PostgreSQL's developers take for right."""
        names = [self.dir / "expected" / f"{test}{end}.out" for end in ("", *(f"_{i}" for i in range(1, 10)))]
        return [name.read_bytes() for name in names if name.exists()]


def fetch(bin_dir):
    """The suite for the server programs in `bin_dir`."""
    package, version = owner(Path(bin_dir) / "postgres")
    base = os.environ.get("TENANTRY_TEST_CACHE") or f"/var/tmp/tenantry-test-{os.getuid()}"
    cache = Path(base)
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o755)
    home = cache / f"regress-{version}"
    with open(cache / ".lock-regress", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
            try:
                got = make(work, package, version, Path(bin_dir))
                work.chmod(0o755)
                (work / "version").write_text(got)
                subprocess.run(["chmod", "-R", "a+rX", work], check=True)
                work.rename(home)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return Source(home, (home / "version").read_text())


def owner(program):
    """The package a program came with, and its version."""
    for tool in ("dpkg-query", "apt-get", "cc"):
        if not shutil.which(tool):
            raise Unavailable(f"there is no {tool} here")
    found = subprocess.run(["dpkg-query", "-S", program.resolve()], capture_output=True, text=True)
    if found.returncode:
        raise Unavailable(f"{program} did not come with a package, so its source is not known")
    package = found.stdout.split(":")[0]
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=True)
    return package, version.stdout


class Apt:
    """apt with lists and sources of its own, in which sources (`deb-src`) are known; verified as apt does."""

    def __init__(self, own, package):
        self.own = own
        parts = own / "parts"
        for name in ("parts", "lists/partial", "cache/archives/partial", "got"):
            (own / name).mkdir(parents=True)
        (own / "list").touch()
        known = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True).stdout
        uris = {uri.rstrip("/") for uri in re.findall(r"^\s+\d+ (\w+://\S+) ", known, re.M)}
        # Only where the package is from: other sources may not have an index of sources at all.
        for file in [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]:
            if not file.is_file() or not any(uri in file.read_text() for uri in uris):
                continue
            (parts / file.name).write_text(with_sources(file))
        if not any(parts.iterdir()):
            raise Unavailable(f"apt does not know where {package} is from")
        self.run("update", "-q")

    def run(self, *command, check=True):
        # As the calling user: apt's own could not write here.
        options = ["Dir::Etc::sourceparts=" + str(self.own / "parts"), "Dir::Etc::sourcelist=" + str(self.own / "list"),
                   "Dir::State::lists=" + str(self.own / "lists"), "Dir::Cache=" + str(self.own / "cache"),
                   "APT::Sandbox::User=root", "Acquire::Retries=2", "Acquire::Languages=none"]
        words = [word for option in options for word in ("-o", option)]
        done = subprocess.run(["apt-get", *words, *command], cwd=self.own / "got", capture_output=True, text=True)
        if check and done.returncode:
            raise Unavailable(f"apt-get {' '.join(command)}: {done.stderr.strip()[-500:]}")
        return done

    def first(self, command, package, versions):
        """What can be had of these versions of a package; its version."""
        problems = []
        for version in versions:
            done = self.run(*command, f"{package}={version}" if version else package, check=False)
            if done.returncode == 0:
                return
            problems.append(f"{version or 'any'}: {done.stderr.strip()[-300:]}")
        raise Unavailable(f"apt-get {' '.join(command)} {package}: " + "; ".join(problems))

    def got(self, pattern):
        found = sorted((self.own / "got").glob(pattern))
        if not found:
            raise Unavailable(f"nothing like {pattern} was fetched")
        return found[0]


def with_sources(file):
    text = file.read_text()
    if file.suffix == ".sources":
        return re.sub(r"^Types:.*$", "Types: deb deb-src", text, flags=re.M)
    lines = [line for line in text.splitlines() if line.startswith("deb ")]
    return "".join(f"{line}\n{line.replace('deb ', 'deb-src ', 1)}\n" for line in lines)


def make(work, package, version, bin_dir):
    """Fetches and builds everything into `work`; returns the version of the source."""
    own = work / "apt"
    apt = Apt(own, package)
    major = re.search(r"\d+", package)[0]
    apt.first(["source", "--download-only", "-q"], package, (version, ""))
    # Unpacked, not installed: it would bring a second compiler.
    apt.first(["download", "-q"], f"postgresql-server-dev-{major}", (version, ""))
    got = re.search(r"_([^_]+)\.dsc$", apt.got("*.dsc").name)[1]
    with tarfile.open(apt.got("*.orig.tar.*")) as archive:
        members = [member for member in archive if re.match(r"[^/]+/src/test/regress/", member.name)]
        archive.extractall(own / "tree", members)
    shutil.move(next((own / "tree").glob("*/src/test/regress")), work / "regress")
    subprocess.run(["dpkg-deb", "-x", apt.got("*-dev-*.deb"), own / "headers"], check=True)
    (work / "lib").mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", f"-I{own}/headers/usr/include/postgresql/{major}/server",
                    work / "regress" / "regress.c", "-o", work / "lib" / "regress.so"], check=True)
    for name in CONTRIB:
        library = bin_dir.resolve().parent / "lib" / name
        if library.exists():
            shutil.copy(library, work / "lib" / name)
    shutil.rmtree(own)
    return got
