"""One HTML page of a `Report`, with everything it needs inside."""
from passl.report.page.assemble import write_page

__all__ = ["write_page"]
