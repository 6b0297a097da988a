"""mallinfo2, malloc_trim and malloc_stats tell what is; malloc_info is well-formed XML, also while threads allocate, and
its figures add up."""

import re
import xml.etree.ElementTree as ElementTree

from harness import CONFIGURATIONS, check, describe, finish, program, run


def attributes(element):
    return {key: int(value) for key, value in element.attrib.items() if value.isdigit()}


def check_document(text, what):
    """The document's classes by size and its elements by tag and type, as numbers."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        check(False, f"{what}: well-formed", f"{error}\n{text}")
        return {}, {}
    check(root.tag == "malloc" and root.get("version") == "1", f"{what}: root", root.tag)
    heap = root.find("heap")
    sizes = [attributes(size) for size in heap.find("sizes")]
    for size in sizes:
        check(size["count"] > 0 and size["count"] * size["to"] == size["total"], f"{what}: free objects", size)
        check(0 < size["from"] <= size["to"], f"{what}: range of sizes", size)
    check(all(a["to"] < b["from"] for a, b in zip(sizes, sizes[1:])), f"{what}: sizes ascend", sizes)
    totals = {(element.tag, element.get("type")): attributes(element) for element in root if element.get("type")}
    inner = {(element.tag, element.get("type")): attributes(element) for element in heap if element.get("type")}
    check(sum(size["count"] for size in sizes) == inner["total", "rest"]["count"], f"{what}: free objects add up", inner)
    check(sum(size["total"] for size in sizes) <= inner["total", "rest"]["size"], f"{what}: free bytes add up", inner)
    check(inner["total", "rest"]["size"] <= inner["system", "current"]["size"], f"{what}: free within all", inner)
    check(totals["system", "current"]["size"] == inner["system", "current"]["size"] + totals["total", "mmap"]["size"],
          f"{what}: slabs and large runs are all", totals)
    check(totals["system", "current"]["size"] <= totals["system", "max"]["size"], f"{what}: below the maximum", totals)
    own = attributes(root.find("polder"))
    check(own["charged"] <= own["peak_charged"] and own["metadata"] <= own["charged"], f"{what}: charges", own)
    check(own["limit"] == 0 or own["charged"] <= own["limit"], f"{what}: within the limit", own)
    classes = {}
    for element in root.find("polder"):
        its = attributes(element)
        classes[its["size"]] = its
        check(its["handed_out"] <= its["objects"], f"{what}: handed out", its)
        free = [size["count"] for size in sizes if size["to"] == its["size"]] or [0]
        check(its["objects"] - its["handed_out"] == free[0], f"{what}: both ways to count what is free", its)
    return classes, totals


for configuration in CONFIGURATIONS:
    result = run([program("introspection")], configuration)
    documents = re.findall(r"<malloc .*?</malloc>\n", result.stdout, flags=re.DOTALL)
    rest = re.sub(r"<malloc .*?</malloc>\n--\n", "", result.stdout, flags=re.DOTALL)
    check(result.returncode == 0 and rest == "ok\n", f"introspection [{configuration}]", describe(result) + "\n" + rest)
    check(len(documents) == 51, f"all documents [{configuration}]", len(documents))
    for number, document in enumerate(documents):
        classes, totals = check_document(document, f"document {number} [{configuration}]")
    held = classes[min(size for size in classes if size >= 4000)]
    check(1234 <= held["handed_out"] <= 1250, f"objects of one class [{configuration}]", held)
    check(17 <= totals["total", "mmap"]["count"] <= 30, f"large runs [{configuration}]", totals)
    lines = re.findall(r"^polder: ([a-z ]+?) *= (\d+)$", result.stderr, flags=re.MULTILINE)
    figures = {name: int(value) for name, value in lines}
    check(len(figures) == 4 and figures["in use bytes"] <= figures["system bytes"], f"malloc_stats [{configuration}]",
          result.stderr)
finish()
