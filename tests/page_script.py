"""The one script that a page may hold, and a page without it."""

from __future__ import annotations

import base64
import hashlib
import re

from trimtab.report.page import page_script


def without_script(html: str) -> str:
    """A page without its script, which must be the constant one, alone, and the only one that its policy lets run.

    Raises:
        AssertionError: another script, another place, or another policy.
    """
    script, digest = page_script()
    assert digest == f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
    rest, found, after = html.rpartition(f"<script>{script}</script>")
    assert found, "the page has no script, or another one"
    assert after.split() == ["</body>", "</html>"]
    policies = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    assert [re.findall(r"script-src ([^;]*);", policy) for policy in policies] == [[f"'{digest}'"]]
    return rest + after
