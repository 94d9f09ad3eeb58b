"""Turn the installed uws-client, which is Python 2, into Python 3. Run by the Python of its own environment.

fissix (the maintained 2to3) does nearly all. What it cannot know, because Python 2's one string type
became two, is mended below. Nothing is changed in what the client sends or in how it reads answers.
"""

import logging
import sys
import sysconfig
from pathlib import Path

from fissix.main import main as convert

PACKAGE = Path(sysconfig.get_path("purelib")) / "uws"

MENDS = (
    # 2to3 makes str of unicode, so that __str__ would call itself; Python 3 prints text, not bytes.
    ("UWS/models.py", "return str(self).encode('utf-8')", "return self.__unicode__()"),
    # A local variable named str hides what unicode has become.
    ("UWS/models.py", "        str = ", "        text = "),
    ("UWS/models.py", "        str += ", "        text += "),
    ("UWS/models.py", "        return str\n", "        return text\n"),
    # base64 takes and gives bytes; encodestring is gone since Python 3.9.
    (
        "UWS/connection.py",
        "base64.encodestring('%s:%s' % (user, password))",
        "base64.encodebytes(('%s:%s' % (user, password)).encode()).decode()",
    ),
    # The end of a download is an empty bytes object; without this it would never end.
    ("UWS/connection.py", "handler.read(chunk_size), '')", "handler.read(chunk_size), b'')"),
    # What is printed as the phase was a str of Python 2.
    ("UWS/client.py", "result = raw\n", "result = raw.decode()\n"),
    # The client's own tests: XML with an encoding declaration is bytes.
    ("UWS/tests/test_models.py", "self.xml = '''", "self.xml = b'''"),
)


def mend() -> None:
    for name, old, new in MENDS:
        path = PACKAGE / name
        text = path.read_text(encoding="utf-8")
        if old not in text:
            sys.exit(f"{path}: there is no {old!r}; the mends were written for uws-client 1.1.11")
        path.write_text(text.replace(old, new), encoding="utf-8")


if __name__ == "__main__":
    logging.disable(logging.INFO)  # a line for each file
    if failed := convert("fissix.fixes", ["--write", "--nobackups", "--no-diffs", str(PACKAGE)]):
        sys.exit(failed)
    mend()
