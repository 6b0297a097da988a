"""A Python program: records that are made, indexed, sorted, serialised, parsed again, dropped; prints a digest.

    objects.py [ROUNDS]        (5)
"""

import hashlib
import json
import sys


class Record:
    def __init__(self, number, name, tags):
        self.number = number
        self.name = name
        self.tags = tags


def numbers(count, state=12345):
    for _ in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        yield state


def main(rounds):
    digest = hashlib.sha256()
    kept = []
    for number in range(rounds):
        records = [Record(n, f"name-{n % 9973}-{n}", [n % 7, str(n % 101), n / 3]) for n in numbers(60_000, number)]
        index = {}
        for record in records:
            index.setdefault(record.name[:8], []).append(record)
        records.sort(key=lambda record: (record.tags[0], record.number))
        text = json.dumps([[r.number, r.name, r.tags] for r in records[::3]])
        back = json.loads(text)
        words = sorted({word for entry in back for word in entry[1].split("-")})
        digest.update(" ".join(words).encode())
        digest.update(str(sum(len(group) ** 2 for group in index.values())).encode())
        kept = kept[-5000:] + records[::16]
        text = "".join(chr(97 + n % 26) for n in numbers(100_000, number))
        counts = {}
        for i in range(len(text) - 3):
            counts[text[i:i + 3]] = counts.get(text[i:i + 3], 0) + 1
        digest.update(str(sorted(counts.items())[:500]).encode())
    digest.update(str(sum(record.number for record in kept)).encode())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
