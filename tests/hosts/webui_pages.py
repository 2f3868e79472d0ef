"""Pages of the real WebUI in a browser."""

from __future__ import annotations

QUIET = 5
"""Looks in a row, a tenth of a second apart, without a request to gradio under way."""
LOOKS = 1200


def new_page(browser, **context):
    """A new page in a context of its own; close it by `leave`."""
    page = browser.new_context(**context).new_page()
    page.under_way = []

    def begun(socket) -> None:  # playwright refuses a list's own method
        page.under_way.append(socket)

    page.on("websocket", begun)
    return page


def leave(page) -> None:
    """Close it when gradio has answered everything that it asked.

    gradio 3.41 keeps a request whose page went away for ever, whosever button it was, and the WebUI's *Reload UI*
    then waits for it for ever, too.
    """
    page.route("**/lora-ext/**", lambda route: route.abort())  # so that our scripts ask for nothing more
    quiet = 0
    for _ in range(LOOKS):
        quiet = quiet + 1 if all(socket.is_closed() for socket in page.under_way) else 0
        if quiet == QUIET:
            break
        page.wait_for_timeout(100)
    page.context.close()
    assert quiet == QUIET, "gradio did not answer a request of this page in two minutes"
