"""The secret that the services of a suite share."""

from __future__ import annotations

import hmac
from typing import Any

from splatmill._transport import bearer_token
from splatmill.errors import Reason, SplatmillError


def check_worker_token(context: Any, expected: str) -> None:
    """Lets calls from inside the suite pass; all of them where there is no token.

    Raises:
        SplatmillError: UNAUTHENTICATED.
    """
    if expected and not hmac.compare_digest(bearer_token(context).encode(), expected.encode()):
        raise SplatmillError(
            Reason.UNAUTHENTICATED, "This is for the services of the suite alone.",
            "Show the SPLATMILL_WORKER_TOKEN of the suite as `authorization: Bearer TOKEN`.",
        )  # fmt: skip
