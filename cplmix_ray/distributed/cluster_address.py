"""The address of a Ray cluster to join, tried before Ray is, which waits up to a quarter of an hour for an answer."""

import contextlib
import os
import socket
from collections.abc import Iterator

import psutil

from cplmix_ray.utils.errors import InputError

_ANSWER_SECONDS = 5.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2, which Ray uses, sends first; the answer is a frame of type 4 (RFC 9113, section 3.4)."""
_REMEDY = "to use this machine alone, leave out --ray-address and unset RAY_ADDRESS."


def cluster_address(address: str | None) -> str | None:
    """The address that a run joins, None if it has a Ray of its own.

    Args:
        address: the setting; RAY_ADDRESS is used without it, and in place of 'auto', as Ray does.
    """
    if not address or address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    return None if not address or address == "local" else address


def reachable_address(address: str) -> str:
    """host:port of the cluster that an address names, if it can be joined from here.

    Raises:
        InputError: it is no address, no cluster answers there within seconds, or the cluster does not take the token.
    """
    from ray._private.services import find_bootstrap_address, find_gcs_addresses

    if address != "auto":
        return _tried(address)
    reasons = []
    # The one that `ray start` has noted, which may have ended, and those whose processes are found.
    for found in dict.fromkeys([*filter(None, [find_bootstrap_address(None)]), *sorted(find_gcs_addresses())]):
        try:
            return _tried(found)
        except InputError as error:
            reasons.append(str(error))
    found_none = "There is no Ray cluster on this machine that can be joined"
    raise InputError(f"{found_none}: {reasons[0]}" if reasons else f"{found_none}; {_REMEDY}")


def _tried(address: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"'{address}' is no address of a Ray cluster; --ray-address and RAY_ADDRESS take host:port, such as "
            f"10.0.0.5:6379, or 'auto' on one of its machines, but no addresses of dashboards (http://) or of Ray "
            f"Client (ray://). Correct it; {_REMEDY}"
        )
    found = canonicalize_bootstrap_address(address)  # localhost as other machines see it
    assert found is not None
    host = found.rpartition(":")[0].strip("[]")
    try:
        with socket.create_connection((host, int(port)), _ANSWER_SECONDS) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"No Ray cluster answers at {found} ({why}); start it or name another one; {_REMEDY}"
        ) from None
    if answer[3:4] != b"\x04" and os.environ.get("RAY_USE_TLS", "0") == "0":
        raise InputError(f"What answers at {found} is no Ray cluster; correct --ray-address or RAY_ADDRESS; {_REMEDY}")
    _check_token(found)
    if not any((process.info["name"] or "").startswith("raylet") for process in psutil.process_iter(["name"])):
        raise InputError(
            f"This machine is no part of the Ray cluster at {found}; run the command on one of its machines, or add "
            f"this one with `ray start --address={found}`."
        )
    return found


def _check_token(address: str) -> None:
    """Ask the cluster for something; with a wrong token, Ray itself asks again for half a minute."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RpcError

    try:
        with _silent():
            ensure_token_if_auth_enabled(create_token_if_missing=False)
            GcsClient(address=address).internal_kv_get(b"session_name", b"session", timeout=_ANSWER_SECONDS)
    except AuthenticationError:
        raise InputError(
            f"The token of the Ray cluster at {address} is missing or another one; set RAY_AUTH_TOKEN_PATH to its file "
            f"(default: ~/.ray/auth_token), or RAY_AUTH_MODE=disabled if the cluster has none. A Ray that another run "
            f"has started for itself cannot be joined."
        ) from None
    except RpcError:
        raise InputError(
            f"What answers at {address} is not the control service of a Ray cluster, whose port is 6379 by default; "
            f"correct --ray-address or RAY_ADDRESS; {_REMEDY}"
        ) from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what Ray's C++ code writes to standard error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
