-- An SQLite database in memory: filled, indexed, joined, grouped, updated, deleted from; sums are printed.
PRAGMA temp_store = MEMORY;
CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, town INTEGER, note TEXT);
CREATE TABLE towns(id INTEGER PRIMARY KEY, name TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
INSERT INTO towns SELECT i, printf('town %d', i * 7919 % 501) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
INSERT INTO people SELECT i, printf('name %x', i * 2654435761 % 4294967296), i * 31 % 500 + 1,
    substr('a note of some length that differs from row to row', 1, i % 50) FROM n;
CREATE INDEX people_by_name ON people(name);
CREATE INDEX people_by_town ON people(town, note);
SELECT count(*), sum(length(name)), sum(length(note)) FROM people;
SELECT sum(c * length(n)) FROM (
    SELECT t.name AS n, count(*) AS c FROM people p JOIN towns t ON t.id = p.town GROUP BY t.name);
UPDATE people SET note = note || ' and ' || name WHERE id % 5 = 0;
DELETE FROM people WHERE id % 7 = 0;
SELECT count(*), sum(length(note)), max(name), min(note) FROM people;
SELECT sum(id * r % 1000003) FROM (SELECT id, row_number() OVER (ORDER BY note, name) AS r FROM people);
SELECT length(group_concat(name, ',')), count(DISTINCT note) FROM people;
INSERT INTO people SELECT id + 1000000, upper(name), town, note FROM people WHERE town < 200;
SELECT count(*), sum(id) FROM people WHERE name IN (SELECT name FROM people WHERE town = 17);
PRAGMA integrity_check;
