"""Reads every event back and compares: read_back.py PORT LINES, the lines that were imported.

Of each stream: order, payload, timestamp, and version = position. Of the server: nothing else.
"""

import json
import sys

import redis


def scan(client, stream):
    start, events = "-", []
    while True:
        page = client.execute_command("ESCAN", stream, start, "+", "COUNT", 500)
        events += page[b"events"]
        if not page[b"has_more"]:
            return events
        start = events[-1][b"stream_version"] + 1


def compare(stream, position, event, line):
    expected = {
        b"stream_version": position,
        b"stream_id": stream.encode(),
        b"event_name": line["name"].encode(),
        b"timestamp": line["timestamp"],
        b"metadata": b"",
    }
    for key, value in expected.items():
        if event[key] != value:
            raise AssertionError(f"{stream} {position}: {key} is {event[key]!r}, not {value!r}")
    payload = json.dumps(line["payload"], separators=(",", ":"), ensure_ascii=False).encode()
    if event[b"payload"] != payload:
        raise AssertionError(f"{stream} {position}: {event[b'payload']!r}, not {payload!r}")


def main():
    client = redis.Redis(port=int(sys.argv[1]), protocol=3)
    streams = {}
    with open(sys.argv[2], "rb") as file:
        for line in map(json.loads, file):
            streams.setdefault(line["stream"], []).append(line)
    for stream, lines in streams.items():
        events = scan(client, stream)
        if len(events) != len(lines):
            raise AssertionError(f"{stream}: {len(events)} events, {len(lines)} were imported")
        for position, (event, line) in enumerate(zip(events, lines, strict=True)):
            compare(stream, position, event, line)
        version = client.execute_command("ESVER", stream)
        if version != len(lines) - 1:
            raise AssertionError(f"{stream}: version {version} of {len(lines)} events")
    total = sum(map(len, streams.values()))
    if client.dbsize() != total:
        raise AssertionError(f"the server holds {client.dbsize()} events, imported were {total}")
    print(f"{total} events in {len(streams)} streams are equal")


if __name__ == "__main__":
    main()
