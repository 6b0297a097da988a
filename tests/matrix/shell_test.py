"""Shells and the tools of everyday: bash, awk, sort, tar, xz, zstd, openssl; the large ones also paging."""

import os
import random

import matrix
from matrix import SOURCE, check, compare, find

BASH = r"""
declare -A seen
for i in {1..3000}; do seen[$((i * 7919 % 1009))]+="$i,"; done
for key in $(printf '%s\n' "${!seen[@]}" | sort -n); do printf '%s=%s\n' "$key" "${seen[$key]}"; done > table
while read -r line; do (echo "${line#*=}" | tr , '\n' | tail -n 2 | head -n 1); done < <(head -n 60 table) > subshells
cat <<END > document
$(wc -l < table) ${BASH_VERSINFO[0]} $(( 2 ** 40 ))
END
trap 'echo caught > trapped' USR1
kill -USR1 $$
coproc cat; echo through >&"${COPROC[1]}"; read -r answer <&"${COPROC[0]}"; echo "$answer"
sort -t= -k2 table | awk -F= '{n += length($2)} END {print n}'
"""

AWK = """BEGIN {
    for (i = 0; i < 130000; i++) words[i % 100003] = words[i % 100003] sprintf("%d-%x;", i, i * 2654435761)
    for (key in words) { sum += length(words[key]); if (key % 1000 == 0) kept[key] = words[key] }
    n = asorti_free(kept); print sum, n
}
function asorti_free(array,   key, n) { for (key in array) n += length(array[key]) * (key % 97); return n }"""


def write_text(path, size):
    """Text that compresses to about a third, with matches that lie far apart."""
    generator = random.Random(11)
    paragraphs = [generator.randbytes(generator.randrange(200, 2000)).hex().encode() for _ in range(4000)]
    with open(path, "wb") as file:
        while file.tell() < size:
            file.write(generator.choice(paragraphs) + b"\n" + generator.randbytes(40).hex().encode() + b"\n")


with matrix.session() as scratch:
    text = scratch / "text"
    write_text(text, 24 << 20)
    compare(scratch, "bash", [find("bash"), "-c", BASH], witnesses=("sort", "tail", "cat"))
    compare(scratch, "awk", [find("awk"), AWK], tight="12M", hardened=True)
    compare(scratch, "sort", [find("sort"), "-S", "128M", "--parallel=2", "-o", "sorted", text], tight="16M")

    compare(scratch, "tar", [find("tar"), "-c", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-I", "xz -2",
                             "-f", "source.tar.xz", "-C", SOURCE, "src", "tests", "runtime"], witnesses=("xz", "tar"))
    compare(scratch, "tar and back", [find("sh"), "-c", f"tar -c -C '{SOURCE}' src | zstd -q | zstd -dq | tar -x && "
                                      f"diff -r src '{SOURCE}/src'"], witnesses=("zstd", "tar", "diff"))

    # The match finder of xz goes through all of its memory all the time: too slow to page here.
    packed, frame = scratch / "text.xz", scratch / "text.zst"
    for command, tight in (([find("xz"), "-0", "-T1", "-kc", text], None),
                           ([find("zstd"), "-q", "-3", "--long=26", "-T1", "-c", text], "24M")):
        result = compare(scratch, os.path.basename(command[0]), command, tight=tight)
        (packed if command[0].endswith("xz") else frame).write_bytes(result.stdout)
    for command in ([find("xz"), "-dc", packed], [find("zstd"), "-qdc", "--long=26", frame]):
        result = compare(scratch, os.path.basename(command[0]) + " -d", command)
        check(result.stdout == text.read_bytes(), f"{command[0]} gives back what went in")

    openssl = find("openssl")
    compare(scratch, "openssl digests", [openssl, "dgst", "-sha3-512", "-r", text])
    compare(scratch, "openssl cipher", [find("sh"), "-c", f"openssl enc -aes-256-ctr -pbkdf2 -S 0011223344556677 "
                                        f"-pass pass:water -in '{text}' -out sealed && openssl enc -d -aes-256-ctr "
                                        f"-pbkdf2 -S 0011223344556677 -pass pass:water -in sealed | cmp - '{text}'"],
            witnesses=("openssl", "cmp"))
    key = scratch / "key.pem"
    matrix.client([openssl, "genpkey", "-algorithm", "ed25519", "-out", key])
    compare(scratch, "openssl signature", [find("sh"), "-c", f"openssl pkeyutl -sign -rawin -inkey '{key}' -in "
                                           f"'{SOURCE}/LICENSE' -out signature && openssl pkeyutl -verify -rawin "
                                           f"-inkey '{key}' -in '{SOURCE}/LICENSE' -sigfile signature"],
            witnesses=("openssl",))
matrix.finish()
