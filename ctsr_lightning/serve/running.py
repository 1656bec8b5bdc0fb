"""Gradio's server started and ended, without its telemetry and with nothing left in the folder of its files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ctsr_lightning.serve.studio import Studio

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""Addresses that only the machine itself reaches."""


@contextmanager
def serving(studio: Studio, title: str, host: str, port: int) -> Iterator[str]:
    """Serve the page within this context.

    Args:
        studio: What it works with.
        title: The page's heading.
        host: Address to listen at.
        port: Its port.

    Returns:
        Where the page is.

    Raises:
        ValueError: If the port is taken.
    """
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else None
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        from ctsr_lightning.serve.app import build  # imports Gradio, which makes a folder for its files

        server = build(studio, title, hosts)
        try:
            _, url, _ = server.launch(
                server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True,
                ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False, run_history=False,
            )  # fmt: skip
        except OSError as error:
            raise ValueError(
                f"Expected a free port at {host}, found {port} in use, or an address of another machine ({error}). "
                "Name another --port."
            ) from error
        try:
            yield url
        finally:
            server.get_blocks().close(verbose=False)
            studio.close()
