"""Appends to three nodes beside appends to one, on this machine, in alternating rounds.

Clients of the three are connected to the node that leads, and with `follower` to another one. Prints
medians of the rounds: appends per second, p50 and p99 in milliseconds; what an idle cluster of three
takes of a core per node; and how long a sync takes when three write to this disk at once, as three
nodes do.

    python3 docs/examples/cluster/compare.py target/release/actadb 3 5      # rounds, seconds
"""

import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from nodes import NODES, Cluster, wait_for

CONNECTIONS = (1, 3, 64, 256)
IDLE_SECONDS = 10
SYNCED_BYTES = 8 << 20


def bench(binary, port, connections, seconds):
    """One run of the load generator."""
    words = [binary, "bench", "append", "--address", f"127.0.0.1:{port}", "--json"]
    words += ["--connections", str(connections), "--seconds", str(seconds)]
    told = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return told


def cpu_seconds(pid):
    """What a process has used, in user and kernel mode."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sync_ms(path, results):
    """Writes and syncs one block after the other in space that was written before."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for at in range(0, SYNCED_BYTES, 1 << 20):
        os.pwrite(file, bytes(1 << 20), at)
    os.fsync(file)
    times = []
    for at in range(0, SYNCED_BYTES, 4096):
        begin = time.perf_counter()
        os.pwrite(file, bytes(512), at)
        os.fdatasync(file)
        times.append(1000 * (time.perf_counter() - begin))
    results.put(statistics.median(times))


def three_syncs_ms():
    """The median of a sync of each of three that write at once."""
    place, results = tempfile.mkdtemp(dir="."), multiprocessing.Queue()
    writers = [
        multiprocessing.Process(target=sync_ms, args=(f"{place}/{node}", results))
        for node in NODES
    ]
    for writer in writers:
        writer.start()
    times = [results.get() for _ in writers]
    for writer in writers:
        writer.join()
    shutil.rmtree(place)
    return statistics.median(times)


def main():
    binary, rounds, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    found = {}

    def note(who, port, connections):
        found.setdefault((connections, who), []).append(bench(binary, port, connections, seconds))

    syncs = []
    for number in range(rounds):
        syncs.append(three_syncs_ms())
        place = tempfile.mkdtemp(dir=".")
        words = [binary, "--dir", place, "--client-address", "127.0.0.1:9099", "--log", "error"]
        single = subprocess.Popen(words)
        try:
            wait_for(9099)
            for connections in CONNECTIONS:
                note("single", 9099, connections)
        finally:
            single.terminate()
            single.wait()
            shutil.rmtree(place)
        with Cluster(binary) as cluster:
            if number == 0:
                time.sleep(2)
                before = [cpu_seconds(node.pid) for node in cluster.nodes.values()]
                time.sleep(IDLE_SECONDS)
                after = [cpu_seconds(node.pid) for node in cluster.nodes.values()]
                used = [100 * (b - a) / IDLE_SECONDS for a, b in zip(before, after)]
                print("idle, % of a core per node:", ", ".join(f"{share:.1f}" for share in used))
            led = cluster.leader()
            for connections in CONNECTIONS:
                note("leader", 9090 + led, connections)
                note("follower", 9090 + led % len(NODES) + 1, connections)
    for (connections, who), runs in sorted(found.items()):
        middle = [
            statistics.median(run[key] for run in runs)
            for key in ("operations_per_second", "p50_ms", "p99_ms")
        ]
        print(f"{connections:4} connections  {who:9} {middle[0]:9.0f}/s", *middle[1:])
    print(f"a sync while two others sync: {statistics.median(syncs):.3f} ms")


if __name__ == "__main__":
    main()
