"""Small commands on a database of many segments beside one of a single segment.

Fills both (the first with segments of 1 MiB), starts both anew, and sends one command at a time
over one connection to each in turn, in alternating rounds. Prints medians, in microseconds: the
time from a command to its answer, and the server's CPU. A stream or an id is looked at once only:
what finding it needs is mostly not in the cache of indexes, but in the system's.

    python3 docs/examples/growth.py target/release/actadb 6200000 5      # events, rounds
"""

import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

STREAMS = 20_000
ONE_EVENTS = 500_000
COMMANDS = 200


class Server:
    """A server of its own directory, and one connection to it."""

    def __init__(self, binary, place, segment_bytes):
        self.binary, self.place, self.segment_bytes = binary, place, segment_bytes
        self.process = self.address = self.socket = self.answers = None

    def start(self):
        """Starts it, anew if it runs."""
        self.stop()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        words = {"NETWORK__ADMIN_ADDRESS": "", "SEGMENT__SIZE_BYTES": self.segment_bytes}
        env = dict(os.environ, **{f"ACTADB_{key}": str(word) for key, word in words.items()})
        words = [self.binary, "--dir", self.place, "--client-address", self.address]
        self.process = subprocess.Popen([*words, "--log", "warn"], env=env)
        while self.process.poll() is None:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.socket.makefile("rb")

    def stop(self):
        """Stops it."""
        if self.process:
            self.process.terminate()
            self.process.wait()

    def fill(self, events):
        """Appends so many."""
        words = [self.binary, "bench", "append", "--address", self.address, "--connections", "8"]
        words += ["--depth", "64", "--streams", str(STREAMS), "--operations", str(events)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def call(self, command):
        """The answer to a command."""
        words = command.encode().split()
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"*%d\r\n%s" % (len(words), b"".join(parts)))
        return self.answer()

    def answer(self):
        """The next answer."""
        line = self.answers.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind in b"+:":
            return rest.decode()
        if kind == b"$":
            return None if rest == b"-1" else self.answers.read(int(rest) + 2)[:-2].decode()
        return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]

    def cpu(self):
        """What its threads have used, in microseconds."""
        tasks = f"/proc/{self.process.pid}/task"
        total = 0
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/schedstat", encoding="ascii") as stat:
                total += int(stat.read().split()[0])
        return total / 1000

    def streams(self):
        """Streams it has, in no order, each once."""
        found = set()
        for partition in range(32):
            last = int(self.call(f"EPSEQ {partition}") or 0)
            for _ in range(20):
                at = random.randint(0, last)
                page = self.call(f"EPSCAN {partition} {at} + COUNT 100")
                events = dict(zip(page[::2], page[1::2]))["events"]
                found.update(dict(zip(event[::2], event[1::2]))["stream_id"] for event in events)
        found = sorted(found)
        random.shuffle(found)
        return found


def measured(server, commands):
    """Median time of the commands, and CPU of each, in microseconds."""
    times, before = [], server.cpu()
    for command in commands:
        begin = time.perf_counter()
        server.call(command)
        times.append(1e6 * (time.perf_counter() - begin))
    return statistics.median(times), (server.cpu() - before) / len(times)


def main():
    binary, events, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    place = tempfile.mkdtemp(dir=".")
    one = Server(binary, f"{place}/one", 256 << 20)
    many = Server(binary, f"{place}/many", 1 << 20)
    found = {}
    try:
        for server, count in ((one, ONE_EVENTS), (many, events)):
            server.start()
            server.fill(count)
            server.start()
        files = [name for _, _, names in os.walk(many.place) for name in names]
        segments = sum(name.endswith(".index") for name in files)
        known = {server: server.streams() for server in (one, many)}
        for server in (one, many):
            server.start()
        payload = "x" * 256
        names = {
            "append to a new stream": lambda _: f"EAPPEND n-{uuid.uuid4()} Grown PAYLOAD {payload}",
            "EGET of an id that is not there": lambda _: f"EGET {uuid.uuid4()}",
            "ESVER of a stream that is not there": lambda _: f"ESVER no-{uuid.uuid4()}",
            "ESVER of a stream that is there, cold": lambda of: f"ESVER {known[of].pop()}",
            "ESCAN of one event, cold": lambda of: f"ESCAN {known[of].pop()} - + COUNT 1",
        }
        for _ in range(rounds):
            for name, command in names.items():
                for server in random.sample((one, many), 2):
                    commands = [command(server) for _ in range(COMMANDS)]
                    found.setdefault((name, server), []).append(measured(server, commands))
        print(f"one segment; {segments} sealed ones")
        for name in names:
            cells = [
                f"{statistics.median(t for t, _ in found[name, server]):.0f} us, "
                f"{statistics.median(c for _, c in found[name, server]):.0f} us of CPU"
                for server in (one, many)
            ]
            print(f"{name}: {'; '.join(cells)}")
    finally:
        one.stop()
        many.stop()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
