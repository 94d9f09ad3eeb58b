"""A service as programs need it that have never seen it: a service descriptor (DataLink 1.1 section 4).

It is told as a table of links (section 3) with a row for each way to call the service, since it is there that
clients look for descriptors.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from lxml import etree

from uws.jobs import UserUWS
from uws.model import FileParameter, Parameter, Service, StrParameter
from uws.model.units import format_size

from .capabilities import UWS_ID
from .documents import add, serialise
from .examples import request_of
from .negotiation import Form
from .resource import Resource

VOTABLE = "http://www.ivoa.net/xml/VOTable/v1.3"
_FORM = Form("votable", (), "application/x-votable+xml;content=datalink")
_COLUMNS = {
    "ID": "meta.id;meta.main",
    "access_url": "meta.ref.url",
    "service_def": "meta.ref",
    "error_message": "meta.code.error",
    "description": "meta.note",
    "semantics": "meta.code",
    "content_type": "meta.code.mime",
    "content_length": "phys.size;meta.file",
}
"""The columns of a table of links, with their UCDs."""
_TEXT = {"datatype": "char", "arraysize": "*"}
_TYPES = {
    "int": {"datatype": "long"},
    # At most one: pyvo (1.9) fails on a scalar of floating point that has no value.
    "float": {"datatype": "double", "arraysize": "1*"},
    "bool": {"datatype": "boolean"},
    "str": {"datatype": "unicodeChar", "arraysize": "*"},
    "timestamp": {**_TEXT, "xtype": "timestamp"},
    "interval": {"datatype": "double", "arraysize": "2", "xtype": "interval"},
    "point": {"datatype": "double", "arraysize": "2", "xtype": "point"},
    "circle": {"datatype": "double", "arraysize": "3", "xtype": "circle"},
    "polygon": {"datatype": "double", "arraysize": "*", "xtype": "polygon"},
}
"""How VOTable calls the types of parameters (DALI 1.1 section 3.3)."""
_UCD = re.compile(r"[A-Za-z0-9_.:;-]+")


async def descriptor(request: web.Request) -> web.Response:
    """``/{service}/descriptor``: how the service is called, synchronously and as a UWS."""
    resource = Resource(request)
    return resource.answer(serialise(_document(resource.uws)), _FORM)


def _document(uws: UserUWS) -> etree._Element:
    service = uws.service
    default: dict[Any, str] = {None: VOTABLE}  # the stubs know of no default namespace
    root = etree.Element(f"{{{VOTABLE}}}VOTABLE", version="1.4", nsmap=default)
    links = add(root, "RESOURCE", type="results")
    add(links, "INFO", name="QUERY_STATUS", value="OK")
    table = add(links, "TABLE", name="links")
    for name, ucd in _COLUMNS.items():
        number = {"datatype": "long", "unit": "byte"} if name == "content_length" else _TEXT
        add(table, "FIELD", name=name, ucd=ucd, **number)
    rows = add(add(table, "DATA"), "TABLEDATA")

    sync = _describe(root, uws, "sync", uws.sync_url, f"{service.title}: answers with the result.")
    if service.answers_with:
        _param(sync, "contentType", service.answers_with)
    for example in service.examples[:1]:
        url = f"{uws.sync_url}?{urlencode(request_of(uws, example))}"
        _explain(_param(sync, "exampleURL", url), example.title)
    _add_inputs(sync, service)
    _add_link(rows, uws, "sync", service.answers_with)

    jobs = _describe(root, uws, "async", uws.joblist_url, f"{service.title}: makes jobs, by POST.")
    _param(jobs, "standardID", UWS_ID)
    _add_inputs(jobs, service)
    _add_link(rows, uws, "async", "text/xml")
    return root


def _describe(root: etree._Element, uws: UserUWS, way: str, url: str, what: str) -> etree._Element:
    """Begin the descriptor of one ``way`` to call the service."""
    element = add(
        root, "RESOURCE", type="meta", utype="adhoc:service", ID=way, name=f"{uws.service.name}-{way}"
    )
    _explain(element, " ".join(filter(None, (what, uws.service.description))))
    _param(element, "accessURL", url)
    return element


def _add_link(rows: etree._Element, uws: UserUWS, way: str, content_type: str | None) -> None:
    link = {
        "ID": uws.service_url,
        "service_def": way,
        "description": uws.service.title,
        "semantics": "#proc",
        "content_type": content_type,
    }
    row = add(rows, "TR")
    for name in _COLUMNS:
        add(row, "TD", link.get(name) or "")


def _add_inputs(element: etree._Element, service: Service) -> None:
    """Add what a client may set. A value there would be one that it must send, so that defaults are told."""
    group = add(element, "GROUP", name="inputParams")
    files = {}
    for name, parameter in service.parameters.items():
        if isinstance(parameter, FileParameter):
            files[name] = parameter
            continue
        input_ = _param(group, name, "", **_TYPES[parameter.type])
        if parameter.unit:
            input_.set("unit", parameter.unit)
        if _UCD.fullmatch(parameter.ucd):
            input_.set("ucd", parameter.ucd)
        _explain(input_, " ".join(_said_of(parameter)))
        _add_values(input_, parameter)
    if files:
        told = [" ".join((f"{name}:", *_said_of(parameter))) for name, parameter in files.items()]
        _explain(_param(group, "UPLOAD", "", **_TEXT), " ".join(("Files, each as name,URL.", *told)))


def _said_of(parameter: Parameter) -> list[str]:
    """Say in words what attributes cannot."""
    said = [parameter.description.rstrip(".") + "."] if parameter.description else []
    if parameter.required:
        said.append("Required.")
    if parameter.defaults:
        said.append(f"Default: {', '.join(parameter.defaults)}.")
    if parameter.multiple:
        said.append("May be given several times.")
    if isinstance(parameter, StrParameter) and parameter.pattern:
        said.append(f"Matches {parameter.pattern}.")
    if isinstance(parameter, FileParameter):
        said.append(f"At most {format_size(parameter.max_bytes)}.")
    return said


def _add_values(element: etree._Element, parameter: Parameter) -> None:
    bounds = {name: getattr(parameter, name, None) for name in ("min", "max")}
    options = parameter.options
    if not options and all(bound is None for bound in bounds.values()):
        return
    values = add(element, "VALUES")
    for name, bound in bounds.items():
        if bound is not None:
            add(values, name.upper(), value=str(bound))
    for option in options:
        add(values, "OPTION", value=option)


def _param(parent: etree._Element, name: str, value: str, **kind: str) -> etree._Element:
    return add(parent, "PARAM", name=name, value=value, **(kind or _TEXT))


def _explain(element: etree._Element, text: str) -> None:
    if text:
        add(element, "DESCRIPTION", text)
