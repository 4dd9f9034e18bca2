"""What a measurement leaves: one JSON file a part, written anew after every row, so that nothing measured is lost.

A record has "part", "status", "reason" (of a part that was skipped or failed), "rows" (what was measured), "machine",
"environment", "arguments", "command", "date" and "seconds". Statuses: "running", "done", "skipped" (it cannot be
measured here, and why), "failed", "stopped" (the minutes were over; it will be measured again).
"""

import json
import os
import pathlib
from typing import Any

FINISHED = ("done", "skipped", "failed")
Record = dict[str, Any]


def path_of(output: pathlib.Path, part: str) -> pathlib.Path:
    """The file of a part."""
    return output / f"{part}.json"


def write(output: pathlib.Path, record: Record) -> None:
    """Writes a record in one move, so that a reader or a kill never meets half of one."""
    path = path_of(output, record["part"])
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)


def read(output: pathlib.Path, part: str) -> Record | None:
    """The record of a part; None where there is none or it cannot be read."""
    try:
        return json.loads(path_of(output, part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_all(output: pathlib.Path) -> dict[str, Record]:
    """All records by part, the earliest first."""
    found = [record for path in output.glob("*.json") if (record := read(output, path.stem)) and "part" in record]
    return {record["part"]: record for record in sorted(found, key=lambda record: record["date"])}


def is_finished(record: Record | None) -> bool:
    """Whether the part need not be measured again."""
    return record is not None and record["status"] in FINISHED
