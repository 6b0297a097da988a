"""Makes the static library: every --member is linked from objects and from what they need of the archives after them into
one object, in which only the version script's names stay global, and those that another member needs. So nothing else in
it can meet a program's names, or the program's own copy of a library that is in there."""

import argparse
import os
import re
import subprocess
import tempfile

parser = argparse.ArgumentParser()
for name in ("archive", "linker", "objcopy", "nm", "ar", "map"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--member", nargs="+", action="append", required=True)
options = parser.parse_args()

with open(options.map) as file:
    text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
exported = set(re.findall(r"^\s*([A-Za-z_]\w*);", text.split("global:")[1].split("local:")[0], flags=re.MULTILINE))


def symbols(path, kind):
    output = subprocess.run([options.nm, "--format=posix", kind, path], stdout=subprocess.PIPE, text=True, check=True)
    return {line.split()[0] for line in output.stdout.splitlines()}


with tempfile.TemporaryDirectory(dir=os.path.dirname(options.archive)) as folder:
    linked = {}
    for name, *files in options.member:
        linked[name] = os.path.join(folder, name + ".linked")
        subprocess.run([options.linker, "-r", "--force-group-allocation", "-o", linked[name], *files], check=True)
    members = []
    for name, path in linked.items():
        needed = set().union(*(symbols(other, "--undefined-only") for other in linked.values() if other != path))
        # Operators are global in their own member only: who has one for itself keeps it to itself.
        names = {symbol for symbol in exported | needed if name == "operators" or not re.match("_Z(nw|na|dl|da)", symbol)}
        keep = os.path.join(folder, name + ".keep")
        with open(keep, "w") as file:
            file.write("\n".join(sorted(names)) + "\n")
        members.append(os.path.join(folder, name + ".o"))
        subprocess.run([options.objcopy, "--keep-global-symbols=" + keep, path, members[-1]], check=True)
    archive = os.path.join(folder, "archive")
    subprocess.run([options.ar, "qcsD", archive, *members], check=True)
    os.replace(archive, options.archive)
