"""The program behind the tests' TAP service: a VOTable with the query, and the sizes of uploads, in it."""

import pathlib
import sys
import time
from xml.sax.saxutils import escape

query, uploads = sys.argv[1], sys.argv[2:]
if query == "SELECT wrong":
    sys.exit("line 1\nthere is no column wrong <here>")
if query == "SELECT sleep":
    time.sleep(600)
for path in uploads:
    query += f" {len(pathlib.Path(path).read_bytes())}"
sys.stdout.write(f"""<?xml version="1.0" encoding="UTF-8"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">
<INFO name="QUERY_STATUS" value="OK"/><TABLE>
<FIELD name="n" datatype="int"/><FIELD name="query" datatype="unicodeChar" arraysize="*"/>
<DATA><TABLEDATA><TR><TD>1</TD><TD>{escape(query)}</TD></TR></TABLEDATA></DATA>
</TABLE></RESOURCE></VOTABLE>
""")
