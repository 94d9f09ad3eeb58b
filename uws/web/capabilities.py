"""VOSI capabilities: what a service offers, where, and how one says who one is (VOSI 1.1 section 2)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web
from lxml import etree

from uws.model import UWSError

from .documents import XSI
from .negotiation import XML
from .resource import Resource

VOSI = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
VO_DATA_SERVICE = "http://www.ivoa.net/xml/VODataService/v1.1"
UWS_ID = "ivo://ivoa.net/std/UWS#rest-1.1"
_SYNC = "Synchronous execution (DALI-sync): takes what creates a job, and leads to its result."
"""What is told of an endpoint that no standard has an identifier for."""
_NAMESPACES = {"vosi": VOSI, "vs": VO_DATA_SERVICE, "xsi": XSI}
_METHODS = {
    "basic": "ivo://ivoa.net/sso#BasicAA",
    "bearer": "ivo://ivoa.net/sso#OAuth",
    "ivoa_bearer": "ivo://ivoa.net/sso#tls-with-password",
}
"""The IVOA's names (SSO 2.0) of what challenges call authentication schemes."""
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_SCHEME = re.compile(r"(?:^|,)\s*([\w!#$%&'*+.^`|~-]+)(?=\s|,|$)")
Method = dict[str, str] | None
"""The attributes of a ``securityMethod``; None is saying nothing of who one is."""


async def capabilities(request: web.Request) -> web.Response:
    """``/{service}/capabilities``, for everybody."""
    resource = Resource(request)
    uws = resource.uws
    methods = await _security_methods(resource)
    root = etree.Element(f"{{{VOSI}}}capabilities", nsmap=_NAMESPACES)
    for name in ("capabilities", "availability"):
        _add(root, f"ivo://ivoa.net/std/VOSI#{name}", f"{uws.service_url}/{name}", "full", [None])
    if uws.service.examples:
        _add(root, "ivo://ivoa.net/std/DALI#examples", f"{uws.service_url}/examples", "full", methods)
    _add(root, UWS_ID, uws.joblist_url, "base", methods)
    for interface in _add(root, None, uws.sync_url, "base", methods, _SYNC):
        if media_type := uws.service.answers_with:
            etree.SubElement(interface, "resultType").text = media_type
    return resource.answer(root, XML)


def _add(
    root: etree._Element,
    standard: str | None,
    url: str,
    use: str,
    methods: Sequence[Method],
    description: str | None = None,
) -> list[etree._Element]:
    """Add a capability, with an interface for each way of saying who one is; return these."""
    capability = etree.SubElement(root, "capability", {"standardID": standard} if standard else {})
    if description:
        etree.SubElement(capability, "description").text = description
    interfaces = []
    for method in methods:
        interface = etree.SubElement(capability, "interface", {"role": "std"} if standard else {})
        interface.set(f"{{{XSI}}}type", "vs:ParamHTTP")
        etree.SubElement(interface, "accessURL", use=use).text = url
        if method is not None:
            etree.SubElement(interface, "securityMethod", method)
        interfaces.append(interface)
    return interfaces


async def _security_methods(resource: Resource) -> list[Method]:
    """Return the ways in which clients may say who they are, first saying nothing, if that will do."""
    if resource.site.authenticator is None:
        return [None]
    named = [{"standardID": _METHODS[name]} for name in schemes(resource)]
    methods: list[Method] = [*(named or [{}])]
    return [None, *methods] if await nobody_may_pass(resource) else methods


def schemes(resource: Resource) -> list[str]:
    """Return the authentication schemes that clients may use, of those that have a name here."""
    authenticator = resource.site.authenticator
    if authenticator is None:
        return []
    challenges = ", ".join(authenticator.challenges(resource.base_url))
    found = map(str.lower, _SCHEME.findall(_QUOTED.sub("", challenges)))
    return [name for name in found if name in _METHODS]


async def nobody_may_pass(resource: Resource) -> bool:
    """Whether a request may say nothing of who sends it: what is made of one that does tells."""
    request, authenticator = resource.request, resource.site.authenticator
    if authenticator is None:
        return True
    try:
        await authenticator.identify(request.clone(headers={"Host": request.host}))
    except UWSError:
        return False
    return True
