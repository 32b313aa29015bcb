"""A stand-in for `fastecdsa`, which py-libp2p imports but an Ed25519 node never needs.

The real package has to be compiled against the GMP headers. When it is absent, `register` puts
modules of the same names in place, so that `import libp2p` works; using a P-256 key then fails
with one clear sentence, and a peer with such an identity is refused at its handshake.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

MESSAGE = "P-256 keys are not supported: Ed25519 identities only"


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise NotImplementedError(MESSAGE)


class _Refused:
    def __init__(self, *_args: object, **_kwargs: object) -> None:
        _refuse()


def int_bytelen(number: int) -> int:
    """Bytes needed to write `number`, at least one (libp2p binds this name when imported)."""
    return max(1, (number.bit_length() + 7) // 8)


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("fastecdsa") is not None
    except (ImportError, ValueError):
        return False


def register() -> None:
    """Put the stand-in into `sys.modules` unless the real package is there. Idempotent."""
    if "fastecdsa" in sys.modules or _is_installed():
        return
    sec1_encoder = type(
        "SEC1Encoder",
        (),
        {"encode_public_key": staticmethod(_refuse), "decode_public_key": staticmethod(_refuse)},
    )
    contents: dict[str, dict[str, Any]] = {
        "fastecdsa": {},
        "fastecdsa.curve": {"Curve": _Refused, "P256": None},
        "fastecdsa.keys": {
            "gen_private_key": _refuse,
            "export_key": _refuse,
            "get_public_key": _refuse,
            "PEMEncoder": _Refused,
        },
        "fastecdsa.point": {"Point": _Refused},
        "fastecdsa.encoding": {},
        "fastecdsa.encoding.sec1": {"SEC1Encoder": sec1_encoder},
        "fastecdsa.encoding.util": {"int_bytelen": int_bytelen},
    }
    modules = {name: ModuleType(name, MESSAGE) for name in contents}
    for name, attributes in contents.items():
        vars(modules[name]).update(attributes)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, modules[name])
    for package in ("fastecdsa", "fastecdsa.encoding"):
        modules[package].__path__ = []
    sys.modules.update(modules)
