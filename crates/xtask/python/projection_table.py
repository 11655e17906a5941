"""Compares a projection with git: projection_table.py SQLITE REPOSITORY.

Everything is asked of git anew, the weeks, too: nothing of the import or of the projection is used.
"""

import collections
import os
import sqlite3
import subprocess
import sys


def slug(name, email):
    """As the import names authors."""
    def of(text):
        words = "".join(c if c.isalnum() else " " for c in text).split()
        return "-".join(words).lower()[:60]
    return of(name) or of(email)


def table_of_git(repository):
    command = ["git", "-c", "safe.directory=*", "-C", repository, "log", "--no-color", "--numstat",
               "--date=format-local:%G-W%V", "--format=%x00%an%x1f%ae%x1f%ad"]
    log = subprocess.run(command, env={**os.environ, "TZ": "UTC"}, check=True,
                         capture_output=True).stdout.decode(errors="replace")
    table = collections.defaultdict(lambda: [0, 0, 0])
    for commit in log.split("\0")[1:]:
        head, *files = commit.split("\n")
        name, email, week = head.split("\x1f")
        row = table[slug(name, email), week]
        row[0] += 1
        for file in filter(None, files):
            inserted, deleted, _ = file.split("\t", 2)
            row[1] += int(inserted.replace("-", "0"))
            row[2] += int(deleted.replace("-", "0"))
    return {key: tuple(row) for key, row in table.items()}


def main():
    path, repository = sys.argv[1:]
    projected = {(author, week): tuple(sums) for author, week, *sums in sqlite3.connect(path).execute(
        "SELECT author, week, commits, insertions, deletions FROM weeks")}
    expected = table_of_git(repository)
    if projected != expected:
        wrong = {key: (projected.get(key), expected.get(key))
                 for key in projected.keys() | expected.keys()
                 if projected.get(key) != expected.get(key)}
        raise AssertionError(f"projected and expected differ: {wrong}")
    commits, insertions, deletions = map(sum, zip(*expected.values()))
    print(f"{len(expected)} rows are equal to git's: {commits} commits, +{insertions} "
          f"-{deletions} lines")


if __name__ == "__main__":
    main()
