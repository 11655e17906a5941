"""How long appends wait when the leader is killed.

Starts three nodes on this machine, then again and again: appends through a node that does not lead,
kills the leader with SIGKILL, and takes the time until the next append through that node is
acknowledged. At the end every node must know every append.

    python3 docs/examples/cluster/failover.py target/release/actadb 20
"""

import statistics
import sys
import time

from nodes import NODES, Cluster, command


def append(port, number):
    """Appends event `number` of a stream. Tried again after an unknown outcome, it may be there."""
    expected = b"%d" % (number - 1) if number else b"empty"
    while True:
        reply = command(port, b"EAPPEND", b"s", b"Happened", b"EXPECTED_VERSION", expected)
        if reply[:1] in b"*%":
            return
        assert reply.startswith((b"-UNCERTAIN", b"-CLUSTERDOWN", b"-TRYAGAIN", b"-WRONGVER")), reply
        if reply.startswith(b"-WRONGVER"):
            latest = command(port, b"ESVER", b"s")
            assert latest == b":%d\r\n" % number, (latest, number)
            return


def main():
    binary, rounds = sys.argv[1], int(sys.argv[2])
    seconds, appended = [], 0
    with Cluster(binary) as cluster:
        for _ in range(rounds):
            led = cluster.leader()
            port = 9090 + led % 3 + 1
            append(port, appended)
            since = time.monotonic()
            cluster.kill(led)
            append(port, appended + 1)
            seconds.append(time.monotonic() - since)
            appended += 2
            cluster.restart(led)
            time.sleep(0.3)
        median = statistics.median(seconds)
        print(f"{rounds} rounds: median {median:.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s")
        for node in NODES:
            latest = command(9090 + node, b"ESVER", b"s")
            assert latest == b":%d\r\n" % (appended - 1), (node, latest, appended)
        print(f"every node knows all {appended} appends")


if __name__ == "__main__":
    main()
