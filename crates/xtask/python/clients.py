"""redis-py against a running ActaDB: clients.py PORT OPEN_PROTOCOL, with a password in PASSWORD.

Prints a line per thing checked; the first that is wrong ends it with a traceback.
"""

import os
import re
import sys
import time

import redis

from following import Following, as_map, equal, text

MULTI_KEY = "b5caaf75-d5ce-5289-a5cb-29de88f7c202"
WRONGVER = re.compile(
    r"WRONGVER current stream version is (\d+|empty) but expected (\d+|any|exists|empty) "
    r"for partition key ([0-9a-f-]{36}) and stream id (.+)"
)


def error_of(client, *command):
    try:
        answer = client.execute_command(*command)
    except redis.ResponseError as error:
        return str(error)
    raise AssertionError(f"{command} was answered {answer!r}, not an error")


class Checks:
    def __init__(self, port, protocol, password):
        self.protocol = protocol
        self.client = redis.Redis(port=port, protocol=protocol, password=password)
        self.call = self.client.execute_command
        self.prefix = f"py{protocol}-"

    def events(self):
        stream = self.prefix + "events"
        before = int(time.time() * 1000)
        payload, metadata = bytes(range(256)), b"\r\n$-1\r\n"
        first = as_map(self.call("EAPPEND", stream, "Made", "PAYLOAD", payload,
                                 "METADATA", metadata, "EXPECTED_VERSION", "empty"))
        equal(list(first), ["event_id", "partition_key", "partition_id", "partition_sequence",
                            "stream_version", "timestamp"])
        equal(first["stream_version"], 0)
        assert before - 1000 <= first["timestamp"] <= time.time() * 1000 + 1000, first
        stamp = 1_700_000_000_123
        second = as_map(self.call("EAPPEND", stream, "Änderung", "EXPECTED_VERSION", 0,
                                  "TIMESTAMP", stamp))
        equal((second["stream_version"], second["timestamp"]), (1, stamp))

        event = as_map(self.call("EGET", first["event_id"]))
        equal(list(event), ["event_id", "partition_key", "partition_id", "transaction_id",
                            "partition_sequence", "stream_version", "timestamp", "stream_id",
                            "event_name", "metadata", "payload"])
        equal({key: event[key] for key in first}, first)
        equal((event["stream_id"], event["event_name"]), (stream.encode(), b"Made"))
        equal((event["payload"], event["metadata"]), (payload, metadata))
        equal(self.call("EGET", MULTI_KEY), None)

        page = as_map(self.call("ESCAN", stream, "-", "+"))
        equal(bool(page["has_more"]), False)
        equal([as_map(e)["stream_version"] for e in page["events"]], [0, 1])
        equal(as_map(page["events"][1])["event_name"], "Änderung".encode())
        equal(as_map(page["events"][1])["payload"], b"")
        page = as_map(self.call("ESCAN", stream, "-", "+", "COUNT", 1, "REV"))
        equal((bool(page["has_more"]), as_map(page["events"][0])["stream_version"]), (True, 1))
        equal(as_map(self.call("ESCAN", self.prefix + "none", "-", "+"))["events"], [])

        partition, sequence = second["partition_id"], second["partition_sequence"]
        page = as_map(self.call("EPSCAN", partition, sequence, "+"))
        equal(as_map(page["events"][0])["event_id"], second["event_id"])
        equal(self.call("EPSEQ", partition), sequence)
        equal(self.call("EPSEQ", first["partition_key"]), sequence)
        equal(self.call("ESVER", stream), 1)
        equal(self.call("ESVER", self.prefix + "none"), None)
        if self.protocol == 3:
            assert page["has_more"] is False, page

    def transactions(self):
        streams = [self.prefix + "a", self.prefix + "b"]
        answer = as_map(self.call("EMAPPEND", MULTI_KEY, streams[0], "E", "PAYLOAD", "1",
                                  streams[1], "E", streams[0], "E", "EXPECTED_VERSION", 0))
        events = [as_map(event) for event in answer["events"]]
        equal([(text(e["stream_id"]), e["stream_version"]) for e in events],
              [(streams[0], 0), (streams[1], 0), (streams[0], 1)])
        equal(answer["last_partition_sequence"] - answer["first_partition_sequence"], 2)
        # All or none: the second event expects what is not so.
        told = error_of(self.client, "EMAPPEND", MULTI_KEY, streams[0], "E",
                        streams[1], "E", "EXPECTED_VERSION", 7)
        equal(WRONGVER.fullmatch(told).groups(), ("0", "7", MULTI_KEY, streams[1]))
        equal(self.call("ESVER", streams[0], "PARTITION_KEY", MULTI_KEY), 1)

    def retries(self):
        stream = self.prefix + "retry"
        first = as_map(self.call("EAPPEND", stream, "E", "PAYLOAD", "p"))
        again = ("EAPPEND", stream, "E", "PAYLOAD", "p", "EVENT_ID", first["event_id"])
        equal(as_map(self.call(*again)), first)
        equal(self.call("ESVER", stream), 0)
        told = error_of(self.client, *again[:4], "other", *again[5:])
        assert told.startswith("DUPLICATE "), told

    def pipelines(self):
        stream, count = self.prefix + "pipeline", 1000
        pipeline = self.client.pipeline(transaction=False)
        for number in range(count):
            pipeline.execute_command("EAPPEND", stream, "E", "PAYLOAD", str(number))
        pipeline.execute_command("ESVER", stream)
        *answers, version = pipeline.execute()
        equal([as_map(answer)["stream_version"] for answer in answers], list(range(count)))
        equal(version, count - 1)
        page = as_map(self.call("ESCAN", stream, "-", "+", "COUNT", 10_000))
        found = [(e["stream_version"], e["payload"]) for e in map(as_map, page["events"])]
        equal(found, [(number, str(number).encode()) for number in range(count)])
        # An error in the middle is answered in its place and stops nothing.
        pipeline = self.client.pipeline(transaction=False)
        for command in (["EAPPEND", stream, "E"], ["EGET"], ["EAPPEND", stream, "E"]):
            pipeline.execute_command(*command)
        good, bad, good_too = pipeline.execute(raise_on_error=False)
        equal(as_map(good)["stream_version"] + 1, as_map(good_too)["stream_version"])
        assert isinstance(bad, redis.ResponseError), bad

    def errors(self):
        stream = self.prefix + "errors"
        key = text(as_map(self.call("EAPPEND", stream, "E"))["partition_key"])
        for expected in ("7", "empty", str(2**64 - 1)):
            told = error_of(self.client, "EAPPEND", stream, "E", "EXPECTED_VERSION", expected)
            equal(WRONGVER.fullmatch(told).groups(), ("0", expected, key, stream))
        told = error_of(self.client, "EAPPEND", stream + "-none", "E",
                        "EXPECTED_VERSION", "exists")
        equal(WRONGVER.fullmatch(told).group(1, 2), ("empty", "exists"))
        for words, command in [
            ("unknown command 'NOSUCH', with args beginning with: 'x' ", ["NOSUCH", "x"]),
            ("wrong number of arguments for 'eget' command", ["EGET"]),
            ("wrong number of arguments for 'eappend' command", ["EAPPEND", "s"]),
            ("INVALIDARG partition 99 does not exist (0 to 31)", ["EPSCAN", 99, "-", "+"]),
            ("INVALIDARG EXPECTED_VERSION must be a number, any, exists or empty, got 'x'",
             ["EAPPEND", stream, "E", "EXPECTED_VERSION", "x"]),
            ("SYNTAX unexpected argument 'FOO' for ESCAN", ["ESCAN", "s", "-", "+", "FOO"]),
        ]:
            equal(error_of(self.client, *command).strip(), words.strip())
        equal(self.call("ESVER", stream), 0)

    def server(self):
        client = self.client
        equal(client.ping(), True)
        equal(client.echo("hello"), b"hello")
        info = client.info()
        equal((info["redis_version"], info["loading"], info["role"]), ("7.4.0", 0, "master"))
        assert "actadb_version" in info and "bucket0" in info, info
        assert "redis_version" not in client.info("clients")
        equal(client.client_setname("tester"), True)
        equal(text(client.client_getname()), "tester")
        mine = client.client_id()
        rows = [row for row in client.client_list() if int(row["id"]) == mine]
        equal([(row["name"], row["lib-name"]) for row in rows], [("tester", "redis-py")])
        equal(int(client.client_info()["id"]), mine)
        docs = as_map(self.call("COMMAND DOCS", "EAPPEND"))
        assert "summary" in as_map(docs["eappend"]), docs
        names = [text(name) for name in client.command_list()]
        equal(client.command_count(), len(names))
        assert "eappend" in names, names
        equal(client.command()["eget"]["arity"], -2)
        equal(client.config_get("partition.count"), {"partition.count": "32"})
        assert client.dbsize() > 0
        assert abs(client.time()[0] - time.time()) < 60
        equal(client.module_list(), [])
        equal(text(client.role()[0]), "master")
        equal(client.select(0), True)
        equal(text(client.reset()), "RESET")


def password_checks(port, password, protocol):
    for wrong in (None, "wrong"):
        client = redis.Redis(port=port, protocol=protocol, password=wrong)
        try:
            client.execute_command("ESVER", "s")
        except redis.AuthenticationError as error:
            known = ("invalid username-password pair", "WRONGPASS", "Authentication required",
                     "HELLO must be called")
            assert any(words in str(error) for words in known), error
        else:
            raise AssertionError(f"no error with password {wrong!r}")
    for user in (None, "default"):
        client = redis.Redis(port=port, protocol=protocol, username=user, password=password)
        equal(client.ping(), True)


def main():
    port, protocol, password = int(sys.argv[1]), int(sys.argv[2]), os.environ.get("PASSWORD")
    if password:
        password_checks(port, password, protocol)
        print(f"redis-py {redis.__version__}, RESP{protocol}: passwords")
    checks = Checks(port, protocol, password)
    following = Following(port, protocol, password)
    for check in (checks.events, checks.transactions, checks.retries, checks.pipelines,
                  checks.errors, checks.server, following.blocking, following.patience,
                  following.subscription):
        check()
        print(f"redis-py {redis.__version__}, RESP{protocol}: {check.__name__}")


if __name__ == "__main__":
    main()
