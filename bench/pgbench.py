"""`pgbench -S`, or another of its scripts, through a proxy, and what that costs the proxy.

Owns: running several at once, and counting CPU and transactions over the same stretch of time. Does not own: what is
compared with what.
"""
import collections
import re
import subprocess
import threading
import time

from harness import cpu_s, environment, pg_tool


def measure(pid, logins, mode, clients, tls, seconds_max, groups, script="-S", cpu=cpu_s):
    """CPU µs per transaction and transactions/s between the progress lines that all of `groups` pgbenches printed."""
    reports = collections.defaultdict(list)   # of each pgbench: (when, CPU of the proxy, transactions so far)

    def read(number, stream):
        done = 0.0
        for line in stream:
            found = re.match(r"progress: ([\d.]+) s, ([\d.]+) tps", line)
            if not found:
                rest[number].append(line)
                continue
            seconds, tps = float(found.group(1)), float(found.group(2))
            last = reports[number][-1][3] if reports[number] else 0.0
            done += tps * (seconds - last)
            reports[number].append((time.monotonic(), cpu(pid), done, seconds))

    rest = collections.defaultdict(list)
    processes, readers = [], []
    try:
        for number in range(groups):
            process = subprocess.Popen(
                [pg_tool("pgbench"), "-n", script, "-c", str(clients // groups), "-j", "1", "-T", str(seconds_max + 1), "-P", "1", "-M", mode],
                env=environment(logins[number], tls), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            processes.append(process)
            readers.append(threading.Thread(target=read, args=(number, process.stderr)))
            readers[-1].start()
        for number, process in enumerate(processes):
            readers[number].join()
            if process.wait():
                raise RuntimeError("pgbench: " + "".join(rest[number][-5:]))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    # The window is the same for all: from the last first line to the first last line.
    start = max((lines[0] for lines in reports.values()), key=lambda line: line[0])
    end = min((lines[-1] for lines in reports.values()), key=lambda line: line[0])
    if end[0] - start[0] < 0.5:
        raise RuntimeError("pgbench printed too few progress lines")
    transactions = sum(at(lines, end[0]) - at(lines, start[0]) for lines in reports.values())
    return (end[1] - start[1]) / transactions * 1e6, transactions / (end[0] - start[0])


def at(lines, when):
    """Transactions of one pgbench up to a moment, by straight lines between its reports."""
    for (t0, _, n0, _), (t1, _, n1, _) in zip(lines, lines[1:]):
        if t0 <= when <= t1:
            return n0 + (n1 - n0) * (when - t0) / (t1 - t0)
    return lines[0][2] if when < lines[0][0] else lines[-1][2]


def fill(login, scale):
    """Makes the tables of pgbench."""
    subprocess.run([pg_tool("pgbench"), "-i", "-q", "-s", str(scale)], env=environment(login, False), check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
