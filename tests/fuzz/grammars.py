"""What clients might send, right and wrong: bodies in parts, ranges, what is accepted, uploads, times."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from typing import NamedTuple

from hypothesis import strategies as st

Bytes = st.SearchStrategy[bytes]
Text = st.SearchStrategy[str]

_JUNK = st.binary(max_size=20).map(lambda some: some.translate(None, b"\r\n"))
_WORD = st.text(max_size=20)


def _bytes(*texts: str) -> Bytes:
    return st.sampled_from([text.encode() for text in texts])


def _mostly(right: Bytes, wrong: Bytes = _JUNK) -> Bytes:
    return st.integers(0, 9).flatmap(lambda chance: right if chance else wrong)


def _joined(separator: Bytes, items: Bytes, **sizes: int) -> Bytes:
    return st.tuples(separator, st.lists(items, **sizes)).map(lambda drawn: drawn[0].join(drawn[1]))


_NUMBER = st.one_of(
    st.integers(0, 120).map(str),
    st.sampled_from(
        ["", "-1", "+1", "1.5", "0x1", "٣", "99", "100", "101", str(2**31), str(2**64), "9" * 5000]
    ),
)
_BLANK = st.sampled_from(["", "", "", " ", "\t"])

# Ranges (RFC 9110 section 14)

_INTERVAL = st.tuples(_NUMBER, _BLANK, st.sampled_from(["-", "-", "-", "--", "–", ""]), _NUMBER).map("".join)
RANGE: Bytes = _mostly(
    st.tuples(
        st.sampled_from(["bytes=", "bytes=", "bytes=", "Bytes=", "bytes", "lines=", "bytes ="]),
        st.lists(_INTERVAL, min_size=1, max_size=4).map(",".join),
    ).map(lambda drawn: "".join(drawn).encode())
)
IF_RANGE: Bytes = _mostly(
    _bytes(
        '"0-0-0"', 'W/"x"', '"', "Sat, 28 Nov 2026 07:00:00 GMT", "Sat, 28 Nov 99999 07:00:00 GMT", "0", ""
    )
)
CONDITION: Bytes = _mostly(
    _bytes(
        "*", '"x"', '"x", W/"y"', '"' * 99, "Sat, 28 Nov 2026 07:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:60 +2400", "tomorrow",
    )
)  # fmt: skip

# What is accepted (RFC 9110 section 12.5.1)

_QUALITY = _mostly(
    _bytes("0", "1", "0.5", "1.000", "0.001"), _bytes("2", "-1", "NaN", "1e9", "", "0.1234", "٣")
)
_MEDIA_RANGE = st.tuples(
    _mostly(
        _bytes("text/html", "text/xml", "application/json", "application/xml", "*/*", "text/*", "image/png")
    ),
    st.one_of(
        st.just(b""),
        _QUALITY.map(lambda quality: b";q=" + quality),
        _mostly(_bytes(';v="a,b"', ";charset=utf-8", ';x="\\"', "; Q = 0.3", ";q=0;q=1", ";;")),
    ),
).map(b"".join)
ACCEPT: Bytes = _joined(_bytes(",", ", ", ",,", ";", "\t,"), _MEDIA_RANGE, max_size=6)
FORMAT: Text = st.sampled_from(
    ["", "xml", "json", "html", "text/xml", "JSON ", "pdf", "%00", "xml&RESPONSEFORMAT=json"]
)

# Who somebody says he is (RFC 7617, RFC 6750, RFC 7519, RFC 6265); of few names, for each password takes long

_PASSWORD = st.tuples(
    _bytes("bob", "eve", "", "\u00ff", "a" * 300),
    _bytes(":", ":", ":", "", "::"),
    _bytes("x", "", "p:q", "\0", "x" * 2000),
).map(b"".join)
_JWT = st.lists(
    _mostly(_bytes('{"alg":"none"}', '{"alg":"RS256","kid":"x"}', "{}", "[]", "null", '{"exp":1e999}')),
    min_size=1,
    max_size=4,
).map(lambda parts: b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts))
_TOKEN = st.one_of(
    _bytes(f"uwsd_{'0' * 32}_{'A' * 43}", f"uwsd_{'0' * 32}_", "uwsd_", "uwsd_" + "f" * 9000, "x", ""), _JWT
)
AUTHORIZATION: Bytes = _mostly(
    st.one_of(
        _PASSWORD.map(lambda pair: b"Basic " + b64encode(pair)),
        _JUNK.map(lambda junk: b"basic " + junk),
        _TOKEN.map(lambda token: b"Bearer " + token),
        _bytes("", "Basic", "Bearer", "Digest x", "Negotiate =", "Bearer  a b", "Basic ====", ","),
    )
)
COOKIE: Bytes = _joined(
    _bytes("; ", ";", ",", " "),
    st.tuples(
        _bytes("uwsd_session=", "uwsd_session", "uwsd_share=", "=", "x="), st.one_of(_TOKEN, _JUNK)
    ).map(b"".join),
    max_size=4,
)

# Times (UWS 1.1 section 2.2.2.1, DALI 1.1 section 3.3.3)

_YEAR = st.one_of(st.integers(1970, 2100), st.integers(0, 9999)).map("{:04}".format)
_PART = st.one_of(st.integers(1, 12), st.integers(0, 99)).map("{:02}".format)
_TIME = st.tuples(_PART, _PART, _PART).map(":".join)
TIME: Text = st.one_of(
    _YEAR,
    st.datetimes().map(str),
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.tuples(_YEAR, _PART, _PART).map("-".join),
    st.tuples(
        st.tuples(_YEAR, _PART, _PART).map("-".join),
        st.sampled_from(["T", "T", " ", "t", "  "]),
        _TIME,
        st.sampled_from(["", "", ".5", ".123456789", ".1234567890", ",5"]),
        st.sampled_from(["", "Z", "Z", "z", "+00:00", "-24:00", "\n", "\x00"]),
    ).map("".join),
    st.sampled_from(
        ["now", "٢٠٢٦-٠١-٠١", "10000-01-01", "-001-01-01", "0000", "9999-12-31T23:59:59.999999Z", ""]
    ),
    _WORD,
)

# Uploads (DALI 1.1 section 3.4.5)

_URL = st.tuples(
    st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "file://", "param:", "//", "http:", "vos://"]),
    st.sampled_from(["", "u:p@", "@"]),
    st.sampled_from(
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0", "2130706433",
         "10.0.0.1", "169.254.169.254", "[fe80::1%lo]", "[", "xn--", "a" * 300, "%6c", "\u2100.x", "..", ""]
    ),
    st.sampled_from(["", "", ":80", ":0", ":22", ":65536", ":x", ":"]),
    st.one_of(st.sampled_from(["", "/", "/a;b", "/x?y#z", "/%", "/%00", "/../..", "/\udcff"]), _WORD),
).map("".join)  # fmt: skip


def uploads(own: st.SearchStrategy[str]) -> Text:
    """Return the grammar of UPLOAD, where ``own`` are URLs of this server."""
    item = st.tuples(
        st.sampled_from(["image", "IMAGE", "small", "more", "n", "none", "", "image "]),
        st.sampled_from([",", ",", ",", ", ", ",,", ""]),
        st.one_of(own, _URL, st.sampled_from(["param:a", "param:b", "param:", "param:image", "PARAM:a"])),
    ).map("".join)
    right = st.tuples(st.sampled_from(["image,", "small,", "more,"]), own).map("".join)
    item = st.one_of(right, right, item)
    return st.tuples(st.sampled_from([";", ";", " ; ", ";;"]), st.lists(item, min_size=1, max_size=4)).map(
        lambda drawn: drawn[0].join(drawn[1])
    )


# Bodies in parts (RFC 7578)


class Parts(NamedTuple):
    """A body in parts, the type that it is said to have, and how much longer it is said to be."""

    content_type: bytes
    body: bytes
    missing: int


_NAME = _mostly(
    _bytes(
        "image",
        "small",
        "more",
        "n",
        "a",
        "PHASE",
        "RUNID",
        "UPLOAD",
        "DESTRUCTION",
        "ACTION",
        "_charset_",
        "x",
    ),
    st.one_of(_JUNK, st.just("\U0001f52d".encode()), st.just(b"n" * 9000)),
)
_DISPOSITION = st.one_of(
    _NAME.map(lambda name: b'form-data; name="' + name + b'"'),
    st.tuples(_NAME, _NAME).map(lambda two: b'form-data; name="%s"; filename="%s"' % two),
    st.tuples(_NAME, _NAME).map(lambda two: b"form-data; name=%s; filename*=UTF-8''%s" % two),
    _bytes(
        "form-data", "attachment", "form-data; name=", 'form-data; name="', "form-data; name*=utf-8''a%FF",
        "",
        'form-data; name="image"; filename="../../etc/passwd"', 'form-data; name="a"; name="b"',
        'form-data; name="image"; filename="\x00"', "form-data; name*0=im; name*1=age",
    ),
)  # fmt: skip
_FIELD = st.one_of(
    _bytes(
        "Content-Type: text/plain; charset=utf-16", "Content-Type: application/fits", "Content-Type: ",
        "Content-Type: multipart/mixed; boundary=inner", "Content-Type: text/plain; charset=none",
        "Content-Transfer-Encoding: base64", "Content-Transfer-Encoding: 8bit", "Content-Encoding: gzip",
        "Content-Encoding: deflate", "Content-Length: 3", "Content-Length: -1", "Content-Length: 99999999999",
        "No colon", ": no name", " folded", "X: " + "x" * 9000, "Content-Disposition: form-data; name=n",
    ),
    _JUNK,
)  # fmt: skip
_CONTENT = st.one_of(
    _bytes(
        "",
        "1",
        "3",
        "RUN",
        "image,param:a",
        "utf-8",
        "2030-01-01",
        "0" * 200,
        "\r\n",
        "--BOUND",
        "\r\n--BOUND\r\n",
    ),
    st.binary(max_size=200),
)
_PART_OF = st.tuples(
    _DISPOSITION.map(lambda value: b"Content-Disposition: " + value),
    st.lists(_FIELD, max_size=2),
    _bytes("\r\n\r\n", "\r\n\r\n", "\r\n\r\n", "\n\n", "\r\n", ""),
    _CONTENT,
).map(lambda drawn: b"\r\n".join([drawn[0], *drawn[1]]) + drawn[2] + drawn[3])
_TYPE = _mostly(
    _bytes("multipart/form-data; boundary=BOUND"),
    _bytes(
        "multipart/form-data", 'multipart/form-data; boundary=""', "multipart/mixed; boundary=BOUND",
        "multipart/form-data; boundary=" + "b" * 100, "multipart/form-data; boundary=B\xd6UND", "text/plain",
        "multipart/form-data; boundary=BOUND; boundary=OTHER", "multipart/", "",
        "application/x-www-form-urlencoded",
    ),
)  # fmt: skip


def _body(drawn: tuple[bytes, list[bytes], bytes]) -> bytes:
    before, parts, end = drawn
    return before + b"".join(b"--BOUND\r\n" + part + b"\r\n" for part in parts) + end


PARTS = st.tuples(
    _TYPE,
    st.tuples(
        _bytes("", "", "preamble\r\n", "\r\n"),
        st.lists(_PART_OF, max_size=5),
        _mostly(
            _bytes("--BOUND--\r\n"), _bytes("", "--BOUND--", "--BOUND", "--BOUND--\r\n--BOUND--\r\nepilogue")
        ),
    ).map(_body),
    st.sampled_from([0] * 8 + [1, 100_000]),
).map(lambda drawn: Parts(*drawn))
