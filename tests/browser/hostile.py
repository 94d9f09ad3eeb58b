"""Files that would order a job in the name of whoever opens them, were they taken for pages of the server."""

from __future__ import annotations

LURE = "Click here"
"""What a user is to click on, where there is something to click on."""
_POST = "fetch('/echo/async', {method: 'POST', body: new URLSearchParams({x: 'evil'})})"
SEND = f"document.title = 'acted'; {_POST}; document.forms?.[0]?.submit()"
_SYNC = "/echo/sync?x=evil"
"""Where GET makes a job, as DALI wants it."""
_XHTML = "http://www.w3.org/1999/xhtml"
_FORM = '<form method="post" action="/echo/async"><input name="x" value="evil"/></form>'
_WITHOUT_SCRIPT = f"""{_FORM}<meta http-equiv="refresh" content="0; url={_SYNC}"/><img src="{_SYNC}" alt=""/>
    <link rel="stylesheet" href="{_SYNC}"/><iframe src="{_SYNC}"></iframe><a href="{_SYNC}">{LURE}</a>"""
_STYLE = f"""<xsl:stylesheet id="style" version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
    <xsl:template match="/">
      <html xmlns="{_XHTML}"><body>{_FORM}<script>{SEND}</script></body></html>
    </xsl:template></xsl:stylesheet>"""

HOSTILE = {
    "html": (
        "text/html",
        f'<!DOCTYPE html><body>{_WITHOUT_SCRIPT}<script>{SEND}</script><img src=x onerror="{SEND}">',
    ),
    "svg": (
        "image/svg+xml",
        f'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99" onload="{SEND}">'
        f"<script>{SEND}</script>"
        f'<image href="{_SYNC}"/><a href="{_SYNC}"><text y="50">{LURE}</text></a></svg>',
    ),
    "xml": (
        "application/xml",
        f'<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="#style"?>'
        f"<!DOCTYPE doc [<!ATTLIST xsl:stylesheet id ID #REQUIRED>]><doc>{_STYLE}</doc>",
    ),
    "script in xml": (
        "application/xml",
        f'<doc><h:form xmlns:h="{_XHTML}" method="post" action="/echo/async"/>'
        f'<h:script xmlns:h="{_XHTML}">{SEND}</h:script></doc>',
    ),
    "xhtml": (
        "application/xhtml+xml",
        f'<html xmlns="{_XHTML}"><body>{_WITHOUT_SCRIPT}<script>{SEND}</script></body></html>',
    ),
    "sniffed": ("text/plain", f"<!DOCTYPE html><body>{_FORM}<script>{SEND}</script>"),
}
"""Media type and content by name."""
