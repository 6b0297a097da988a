"""An SQLite database of 300 MB in memory under 64 MiB: built, indexed, updated, joined, checked, hashed."""

import shutil

import under_limit

# Each row holds 1 KiB that follows from its number. shasum covers every byte of the contents.
SCRIPT = """
PRAGMA temp_store = MEMORY;
CREATE TABLE rows(id INTEGER PRIMARY KEY, key BLOB, data TEXT);
INSERT INTO rows SELECT value, sha3(value, 256), replace(hex(zeroblob(8)), '00', hex(sha3(value, 512)))
    FROM generate_series(1, 222000);
SELECT page_count * page_size >= 300000000 FROM pragma_page_count, pragma_page_size;
PRAGMA integrity_check;
CREATE INDEX by_key ON rows(key);
UPDATE rows SET data = data || id WHERE id % 64 = 3;
DELETE FROM rows WHERE id BETWEEN 50000 AND 52000;
SELECT count(*), sum(length(data)) FROM rows;
SELECT sum(r.id) FROM (SELECT sha3(value * 97, 256) AS key FROM generate_series(1, 2000)) AS wanted
    JOIN rows AS r ON r.key = wanted.key;
PRAGMA integrity_check;
.sha3sum
"""

sqlite = shutil.which("sqlite3")
if sqlite is None:
    print("sqlite3 is not installed")
    raise SystemExit(77)
with under_limit.scratch() as directory:
    script = directory / "script.sql"
    script.write_text(SCRIPT)
    bare = under_limit.plain([sqlite, ":memory:"], stdin=script, keep_output=directory / "plain")
    expected = (directory / "plain").read_text().split()
    under_limit.expect(bare.status == 0 and len(expected) == 6, f"unexpected answers without a limit: {expected}")
    under_limit.expect(expected[0] == "1", "the database has less than 300 MB")
    under_limit.expect(expected[1] == expected[4] == "ok", f"integrity without a limit: {expected}")
    outcome = under_limit.limited([sqlite, ":memory:"], stdin=script, keep_output=directory / "limited")
    answers = (directory / "limited").read_text().split()
    under_limit.expect(outcome.status == 0 and answers == expected, f"expected {expected}, got {answers}")
    under_limit.describe("sqlite", outcome, bare)
