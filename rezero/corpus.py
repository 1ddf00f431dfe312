"""Documents in, `Chunk`s out."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rezero.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class Chunk:
    """One passage of a corpus: the unit that is indexed, retrieved and cited as gold evidence."""

    id: str
    title: str
    text: str
    source: str = ""
