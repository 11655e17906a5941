"""A projection with redis-py: commits and changed lines per author and ISO week, in SQLite.

    git log --reverse --format='{"stream":"author-%an","name":"Committed",
        "timestamp":%at000,"payload":{"hash":"%H"}}' | actadb import -
    python projection.py weeks.sqlite

Each partition is followed by a thread of its own with `EPSCAN ... BLOCK`, as a read waits for one
partition. Events of one partition arrive in order, those of different partitions in any: sums do
not mind. A page and the checkpoint behind it are one SQLite transaction, so whenever the process
is killed, every event is counted exactly once.
"""

import argparse
import json
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime, timezone

import redis

BLOCK_MS = 2_000
# Texts stay bytes: payloads of other streams need not be UTF-8.
SEQUENCE = b"partition_sequence"
# The server stops, restarts or cannot be reached.
AGAIN = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.TryAgainError)

SCHEMA = """
CREATE TABLE IF NOT EXISTS weeks (
    author TEXT, week TEXT,
    commits INTEGER NOT NULL, insertions INTEGER NOT NULL, deletions INTEGER NOT NULL,
    PRIMARY KEY (author, week)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoints (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
"""
ADD = """
INSERT INTO weeks VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET
    commits = commits + 1,
    insertions = insertions + excluded.insertions,
    deletions = deletions + excluded.deletions
"""


class Projection:
    """The table and its checkpoints. One thread at a time writes."""

    def __init__(self, path, partitions):
        self.lock = threading.Lock()
        self.db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self.db.executescript(SCHEMA)
        self.db.executemany("INSERT OR IGNORE INTO checkpoints VALUES (?, 0)",
                            [(partition,) for partition in range(partitions)])

    def next(self, partition):
        """The sequence of the first event that is not in the table."""
        with self.lock:
            row = self.db.execute("SELECT next FROM checkpoints WHERE partition = ?", [partition])
            return row.fetchone()[0]

    def apply(self, partition, events):
        """Adds a page and moves the checkpoint behind it: both or neither."""
        first, last = events[0][SEQUENCE], events[-1][SEQUENCE]
        with self.lock:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                for event in events:
                    self.add(event)
                moved = self.db.execute(
                    "UPDATE checkpoints SET next = ? WHERE partition = ? AND next = ?",
                    [last + 1, partition, first])
                if moved.rowcount != 1:
                    raise SystemExit(f"partition {partition}: somebody else moved the checkpoint")
                self.db.execute("COMMIT")
            except BaseException:
                self.db.execute("ROLLBACK")
                raise

    def add(self, event):
        stream = event[b"stream_id"].decode()
        if event[b"event_name"] != b"Committed" or not stream.startswith("author-"):
            return
        commit = json.loads(event[b"payload"])
        moment = datetime.fromtimestamp(event[b"timestamp"] // 1000, timezone.utc)
        year, week, _ = moment.isocalendar()
        self.db.execute(ADD, [stream.removeprefix("author-"), f"{year}-W{week:02}",
                              commit.get("insertions", 0), commit.get("deletions", 0)])


def follow(server, projection, partition, count, end, stop):
    """Applies page after page; returns at `end`, if there is one, or when told to stop."""
    start = projection.next(partition)
    while not stop.is_set() and (end is None or start < end):
        try:
            page = server.execute_command("EPSCAN", partition, start, "+",
                                          "COUNT", count, "BLOCK", BLOCK_MS)
        except AGAIN:
            time.sleep(0.2)
            continue
        if events := page[b"events"]:
            projection.apply(partition, events)
            start = events[-1][SEQUENCE] + 1
            print(f"partition {partition}: {start}", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("database", help="SQLite file; made when it is not there")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=9090)
    options.add_argument("--count", type=int, default=1_000, help="events a transaction, at most")
    options.add_argument("--until-caught-up", action="store_true",
                         help="end when all that is there now has been applied")
    options = options.parse_args()

    server = redis.Redis(options.host, options.port, protocol=3, socket_timeout=15,
                         password=os.environ.get("ACTADB_PASSWORD"))
    partitions = server.info("partitions")["partitions"]
    projection = Projection(options.database, partitions)
    stop = threading.Event()

    def run(partition):
        end = None
        if options.until_caught_up:
            last = server.execute_command("EPSEQ", partition)
            end = 0 if last is None else last + 1
        follow(server, projection, partition, options.count, end, stop)

    with ThreadPoolExecutor(partitions) as threads:
        try:
            for done in as_completed([threads.submit(run, n) for n in range(partitions)]):
                done.result()
        finally:
            stop.set()


if __name__ == "__main__":
    main()
