"""Three nodes on this machine, as config/node-1.toml to node-3.toml say. Run from the repository's top."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

NODES = (1, 2, 3)
PATIENCE_SECONDS = 60


def command(port, *words, timeout=15):
    """Sends one command on a connection of its own; answers the first line of the reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        request = b"*%d\r\n" % len(words)
        request += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        connection.sendall(request)
        reply = b""
        while b"\r\n" not in reply:
            more = connection.recv(65536)
            if not more:
                break
            reply += more
        return reply


def wait_for(port):
    """Waits until a server answers."""
    for _ in within_patience(f"no answer on port {port}"):
        try:
            if command(port, b"PING", timeout=2).startswith(b"+PONG"):
                return
        except OSError:
            pass


def within_patience(failure):
    """A loop that comes again every 50 ms, and ends with an error after a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
    raise TimeoutError(failure)


class Cluster:
    """Starts the nodes, and ends them with the `with` block; their data goes, too."""

    def __init__(self, binary):
        self.binary = binary

    def __enter__(self):
        self.place = tempfile.mkdtemp(dir=".")
        with open(f"{self.place}/secret", "w", encoding="ascii") as secret:
            secret.write(os.urandom(32).hex())
        self.nodes = {node: self.start(node) for node in NODES}
        try:
            for node in NODES:
                wait_for(9090 + node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, node):
        """Starts one node."""
        words = [self.binary, "--config", f"config/node-{node}.toml"]
        words += ["--dir", f"{self.place}/{node}", "--log", "error"]
        secret = f"{self.place}/secret"
        return subprocess.Popen(words, env=dict(os.environ, ACTADB_CLUSTER__SECRET_FILE=secret))

    def kill(self, node):
        """Ends one node with SIGKILL."""
        self.nodes[node].kill()
        self.nodes[node].wait()

    def restart(self, node):
        """Starts a node that was killed, and waits until it answers."""
        self.nodes[node] = self.start(node)
        wait_for(9090 + node)

    def leader(self):
        """The node that leads bucket 0, as the first one that answers knows."""
        for _ in within_patience("no node knows a leader"):
            for node in NODES:
                try:
                    told = command(9090 + node, b"CLUSTER", b"INFO", timeout=2)
                except OSError:
                    continue
                if found := re.search(rb"leader=(\d)", told):
                    return int(found[1]) + 1

    def __exit__(self, *_):
        for process in self.nodes.values():
            process.terminate()
        for process in self.nodes.values():
            process.wait()
        shutil.rmtree(self.place)
