"""Following with redis-py: reads with BLOCK over RESP2 and RESP3, subscriptions over RESP3."""

import collections
import socket
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE = 20


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def as_map(value):
    """A map of RESP3 is a dict, one of RESP2 a flat list."""
    if not isinstance(value, dict):
        value = dict(zip(value[::2], value[1::2], strict=True))
    return {text(key): item for key, item in value.items()}


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def error_of(call, *command):
    try:
        answer = call(*command)
    except redis.ResponseError as error:
        return str(error)
    raise AssertionError(f"{command} was answered {answer!r}, not an error")


def follow(client, command, source, start):
    """The loop of docs/CLIENTS.md: every event from `start` on, for ever."""
    field = "stream_version" if command == "ESCAN" else "partition_sequence"
    while True:
        page = as_map(client.execute_command(command, source, start, "+",
                                             "COUNT", 7, "BLOCK", 2000))
        for event in map(as_map, page["events"]):
            yield event
            start = event[field] + 1


class Following:
    def __init__(self, port, protocol, password):
        self.protocol = protocol
        self.prefix = f"py{protocol}-"
        # A broken connection is an error here: it is not to be hidden by a retry.
        self.options = {"port": port, "protocol": protocol, "password": password,
                        "retry": Retry(NoBackoff(), 0)}
        self.client = redis.Redis(**self.options)
        self.call = self.client.execute_command

    def append(self, stream, numbers):
        """Many appends, pipelined."""
        pipeline = self.client.pipeline(transaction=False)
        for number in numbers:
            name = "Even" if number % 2 == 0 else "Odd"
            pipeline.execute_command("EAPPEND", stream, name, "PAYLOAD", number)
        return [as_map(answer) for answer in pipeline.execute()]

    def append_slowly(self, stream, numbers):
        """One by one, from a connection of another thread."""
        def run():
            for number in numbers:
                self.call("EAPPEND", stream, "E", "PAYLOAD", number)
                time.sleep(0.003)
        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def blocking(self):
        """From the beginning into what is appended, cut off twice, every event once in order."""
        stream = self.prefix + "follow"
        first = self.append(stream, range(30))[0]
        writer = self.append_slowly(stream, range(30, 90))
        seen = []
        for until in (10, 45, 90):
            with redis.Redis(**self.options) as client:
                for event in follow(client, "ESCAN", stream, len(seen)):
                    seen.append((event["stream_version"], int(event["payload"])))
                    if len(seen) == until:
                        break
        writer.join()
        equal(seen, [(n, n) for n in range(90)])

        # All of a partition, and a connection that breaks while it waits.
        partition = first["partition_id"]
        wanted = self.call("EPSEQ", partition) + 1
        client = redis.Redis(single_connection_client=True, **self.options)
        seen = []
        for event in follow(client, "EPSCAN", partition, 0):
            seen.append(event["partition_sequence"])
            if len(seen) == wanted:
                break
        waiting = client.connection._sock
        threading.Timer(0.1, lambda: waiting.shutdown(socket.SHUT_RDWR)).start()
        try:
            next(follow(client, "EPSCAN", partition, wanted))
        except redis.ConnectionError:
            pass
        else:
            raise AssertionError("a read whose connection broke was answered")
        writer = self.append_slowly(stream, range(90, 95))
        for event in follow(client, "EPSCAN", partition, len(seen)):
            seen.append(event["partition_sequence"])
            if len(seen) == wanted + 5:
                break
        writer.join()
        equal(seen, list(range(wanted + 5)))

    def patience(self):
        """An empty page after the patience, and not before; an event at once."""
        quiet = self.prefix + "quiet"
        begun = time.monotonic()
        page = as_map(self.call("ESCAN", quiet, 0, "+", "BLOCK", 150))
        waited = time.monotonic() - begun
        equal((page["events"], bool(page["has_more"])), ([], False))
        assert 0.149 <= waited < 5, waited
        threading.Timer(0.1, lambda: self.call("EAPPEND", quiet, "E")).start()
        begun = time.monotonic()
        page = as_map(self.call("ESCAN", quiet, 0, "+", "BLOCK", 0))
        equal(len(page["events"]), 1)
        assert time.monotonic() - begun < 4
        equal(error_of(self.call, "ESCAN", quiet, 0, "+", "BLOCK", "x"),
              "INVALIDARG BLOCK must be a number, got 'x'")

    def subscription(self):
        """A history, then live, within a window; a filter with progress; nothing after EUNSUB."""
        if self.protocol == 2:
            equal(error_of(self.call, "ESUB", "s"), "ESUB pushes events and needs RESP3: say "
                  "HELLO 3 first, or follow with ESCAN ... BLOCK")
            return
        stream = self.prefix + "subscribed"
        self.append(stream, range(12))
        with Subscriber(self.client) as subscriber:
            told = error_of(subscriber.call, "ESUB", stream, "FROM", 5000)
            equal(told, "INVALIDARG FROM 5000 is past the end (next is 12)")
            subscription = subscriber.call("ESUB", stream, "FROM", 0, "WINDOW", 5)
            seen = []
            while len(seen) < 12:
                burst = [subscriber.next() for _ in range(min(5, 12 - len(seen)))]
                equal(subscriber.next(0.05), None)
                for kind, of, cursor, event in burst:
                    equal((kind, of, cursor), (b"message", subscription, len(seen)))
                    equal((event[b"stream_version"], int(event[b"payload"])), (cursor, cursor))
                    seen.append(cursor)
                equal(subscriber.call("EACK", subscription, seen[-1]), b"OK")
            told = error_of(subscriber.call, "EACK", subscription, 99)
            equal(told, "INVALIDARG cursor 99 is ahead of what was sent (the last is 11)")
            # Live, from another connection, with replies in between.
            writer = self.append_slowly(stream, range(12, 40))
            while len(seen) < 40:
                _, _, cursor, event = subscriber.next()
                equal((cursor, int(event[b"payload"])), (len(seen), len(seen)))
                seen.append(cursor)
                equal(subscriber.call("EACK", subscription, cursor), b"OK")
            writer.join()
            equal(subscriber.call("EUNSUB", subscription), b"OK")
            self.append(stream, range(40, 45))
            equal(subscriber.next(0.05), None)

            # Of 45 events the first 12 and the last 5 are named by whether they are even.
            subscription = subscriber.call("ESUB", stream, "FROM", 0, "NAMES", "Odd",
                                           "PROGRESS", 10)
            found = [subscriber.next() for _ in range(11)]
            odd = [1, 3, 5, 7, 9, 11, 41, 43]
            equal([push[2] for push in found if push[0] == b"message"], odd)
            progress = [push[1:] for push in found if push[0] == b"progress"]
            # After ten that were skipped, ten more, and the last one after a second.
            equal(progress, [[subscription, n, {stream.encode(): n + 1}] for n in (21, 31, 44)])

            # More history than Python's recursion is deep.
            many = self.prefix + "many"
            self.append(many, range(3000))
            subscription = subscriber.call("EPSUB", "*", "FROM", 0, "PREFIX", many)
            numbers = (int(subscriber.next_message(subscription)[b"payload"])
                       for _ in range(3000))
            equal(list(numbers), list(range(3000)))


class Subscriber:
    """A connection of its own, as docs/CLIENTS.md shows: pushes are read, and replies between."""

    def __init__(self, client):
        self.pool = client.connection_pool
        self.connection = self.pool.get_connection()
        self.pushes = collections.deque()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.disconnect()
        self.pool.release(self.connection)

    def read(self, timeout=PATIENCE):
        # Without push_request redis-py drops pushes, each by a call of itself.
        return self.connection.read_response(push_request=True, timeout=timeout)

    def call(self, *command):
        self.connection.send_command(*command)
        while isinstance(answer := self.read(), list):
            self.pushes.append(answer)
        return answer

    def next(self, timeout=PATIENCE):
        """The next push, or None when none comes in time."""
        if self.pushes:
            return self.pushes.popleft()
        return self.read() if self.connection.can_read(timeout) else None

    def next_message(self, subscription):
        while True:
            kind, of, *_, event = self.next()
            if (kind, of) == (b"message", subscription):
                return event
