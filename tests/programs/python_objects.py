"""400 MB of Python objects: built, checked, half of them replaced, checked again. Prints one line when all is right."""

import hashlib
import random
import sys

WANTED = 400_000_000


def content(index, version):
    digest = hashlib.blake2b(index.to_bytes(8, "little") + bytes([version])).digest()
    return digest * (1 + index % 40)


class Record:
    __slots__ = ("index", "data", "words")

    def __init__(self, index, version):
        self.index = index
        self.data = content(index, version)
        self.words = (f"{index}:{version}", float(index), [index, version])

    def check(self, index, version):
        if self.index != index or self.data != content(index, version):
            raise SystemExit(f"record {index} has the wrong contents")
        if self.words != (f"{index}:{version}", float(index), [index, version]):
            raise SystemExit(f"record {index} has the wrong words")

    def size(self):
        return sum(map(sys.getsizeof, (self, self.data, self.words, *self.words, *self.words[2])))


def main():
    records, by_name, total = [], {}, 0
    while total < WANTED:
        index = len(records)
        record = Record(index, 0)
        records.append(record)
        by_name[record.words[0]] = record
        total += record.size()
    versions = bytearray(len(records))

    for index, record in enumerate(records):
        record.check(index, 0)

    # Runs of neighbours, so that a page's objects go together; then some at random.
    order = random.Random(3)
    for first in range(0, len(records), 1000):
        if order.random() < 0.5:
            for index in range(first, min(first + 500, len(records))):
                del by_name[records[index].words[0]]
                versions[index] = 1
                records[index] = Record(index, 1)
                by_name[records[index].words[0]] = records[index]
    for _ in range(20_000):
        index = order.randrange(len(records))
        by_name[f"{index}:{versions[index]}"].check(index, versions[index])

    for index, record in enumerate(records):
        record.check(index, versions[index])
    if len(by_name) != len(records):
        raise SystemExit("names were lost")
    print(f"{len(records)} records, {total} bytes, {sum(versions)} replaced, errors 0")


if __name__ == "__main__":
    main()
