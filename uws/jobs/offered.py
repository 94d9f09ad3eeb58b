"""A service as its clients see it: what is declared, and its URLs."""

from __future__ import annotations

from uws.model import Service, UserUWSJobBase, make_user_uws_job_class


class Offered:
    """A service as clients see it who reach the server at ``base_url``: what is declared, and its URLs."""

    jobdoc_stylesheet = "static/xsl/useruws-job-to-html.xsl"
    joblist_stylesheet = "static/xsl/useruws-joblist-to-html.xsl"

    def __init__(self, service: Service, job_class: type[UserUWSJobBase], base_url: str) -> None:
        self.service = service
        self.job_class = job_class
        self.base_url: str = base_url.rstrip("/")

    @property
    def jobdoc_preamble(self) -> tuple[str, str]:
        """The ``xml-stylesheet`` instruction of job documents, as target and text."""
        return self._preamble(self.jobdoc_stylesheet)

    @property
    def joblist_preamble(self) -> tuple[str, str]:
        """The ``xml-stylesheet`` instruction of job lists, as target and text."""
        return self._preamble(self.joblist_stylesheet)

    def _preamble(self, stylesheet: str) -> tuple[str, str]:
        return "xml-stylesheet", f'type="text/xsl" href="{self.base_url}/{stylesheet}"'

    @property
    def service_url(self) -> str:
        """The URL of the service itself."""
        return f"{self.base_url}/{self.service.name}"

    @property
    def sync_url(self) -> str:
        """The URL of synchronous execution (DALI 1.1 section 2.2)."""
        return f"{self.service_url}/sync"

    @property
    def joblist_url(self) -> str:
        """The URL of the job list."""
        return f"{self.service_url}/async"

    def get_url_for_id(self, job_id: str) -> str:
        """Return the URL of a job, as its clients reach it."""
        return f"{self.joblist_url}/{job_id}"


def offered(service: Service, base_url: str) -> Offered:
    """Return ``service`` as its clients see it, for who only makes documents of its jobs."""
    return Offered(service, make_user_uws_job_class(service), base_url)
