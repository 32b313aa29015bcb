"""Wire values as JSON documents: what people read and write."""

from dataclasses import replace

from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.document import from_document, kind_of, to_document
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import Organisation, OrganisationKind
from gridtokenx.trading.model import CancelOrder, CarbonRate, MarketParameters, PlaceOrder, Source
from tests.support.refusals import refusing

KEY = SigningKey(sha256(b"sender"))
TO = sha256(b"receiver")
TRANSFER = Transfer(TO, Asset.THB, 5)
SIGNED = sign_transaction(KEY, sha256(b"chain"), 3, TRANSFER)


def test_a_transaction_and_back() -> None:
    for text_integers in (False, True):
        document = to_document(SIGNED, text_integers=text_integers)
        assert from_document(Transaction, document) == SIGNED


def test_how_things_look() -> None:
    document = to_document(SIGNED)
    assert document["kind"] == "transaction"
    assert document["chain_id"] == SIGNED.chain_id.hex()
    assert document["sender"] == format_address(KEY.public_key)
    assert document["payload"] == {
        "kind": "transfer",
        "to": format_address(TO),
        "asset": "thb",
        "amount": 5,
    }
    assert to_document(TRANSFER, text_integers=True)["amount"] == "5"


def test_lists_enums_and_nested_values() -> None:
    parameters = replace(MarketParameters(), holidays=(1, 2))
    document = to_document(parameters)
    assert document["carbon_rates"][0] == {
        "kind": "carbon_rate",
        "source": "solar",
        "mcr_per_kwh": 500,
    }
    assert document["holidays"] == [1, 2]
    assert from_document(MarketParameters, document) == parameters


def test_kinds_are_class_names_in_lower_case() -> None:
    assert [kind_of(cls) for cls in (PlaceOrder, CancelOrder)] == ["place_order", "cancel_order"]


def test_problems_are_told_with_their_path() -> None:
    good = to_document(SIGNED)
    payload = good["payload"]
    cases = [
        (good | {"extra": 1}, ErrorCode.MALFORMED, "transaction does not know 'extra'"),
        ({k: v for k, v in good.items() if k != "nonce"}, ErrorCode.MALFORMED, "lacks 'nonce'"),
        (good | {"nonce": 1.0}, ErrorCode.MALFORMED, "transaction.nonce must be int"),
        (good | {"nonce": True}, ErrorCode.MALFORMED, "transaction.nonce must be int"),
        (good | {"nonce": -1}, ErrorCode.OUT_OF_RANGE, "nonce"),
        (good | {"nonce": 2**70}, ErrorCode.MALFORMED, ""),
        (good | {"chain_id": "xy"}, ErrorCode.MALFORMED, "chain_id must be hex"),
        (good | {"chain_id": "00"}, ErrorCode.OUT_OF_RANGE, "chain_id has length 1"),
        (good | {"sender": "gtx1"}, ErrorCode.BAD_ADDRESS, "62 characters"),
        (good | {"payload": payload | {"kind": "gift"}}, ErrorCode.UNKNOWN_KIND, "'gift'"),
        (good | {"payload": 7}, ErrorCode.UNKNOWN_KIND, "payload.kind is None"),
        (
            good | {"payload": payload | {"asset": "gold"}},
            ErrorCode.OUT_OF_RANGE,
            "payload.asset is 'gold', must be one of energy, thb",
        ),
        ([], ErrorCode.MALFORMED, "transaction must be an object"),
    ]
    for document, code, match in cases:
        with refusing(code, match):
            from_document(Transaction, document)


def test_numbers_as_text_are_whole_numbers() -> None:
    good = to_document(TRANSFER)
    assert from_document(Transfer, good | {"amount": "7"}).amount == 7
    for text in ("7.0", " 7", "0x7", "", "٧", "9" * 30):
        with refusing(ErrorCode.MALFORMED, "amount"):
            from_document(Transfer, good | {"amount": text})


def test_text_that_utf8_cannot_hold_is_the_senders_fault() -> None:
    document = to_document(Organisation("x", OrganisationKind.PAYMENT, TO, TO))
    with refusing(ErrorCode.MALFORMED, "name"):
        from_document(Organisation, document | {"name": "\ud800"})


def test_optional_and_union_fields() -> None:
    rate = CarbonRate(Source.WIND, 600)
    assert from_document(CarbonRate, to_document(rate)) == rate
