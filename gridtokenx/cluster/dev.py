"""Funded prosumers on the first region chain, so that a new cluster can be traded on at once."""

from __future__ import annotations

from gridtokenx.chain.transaction import Payload, Transaction
from gridtokenx.client import Client, RpcError
from gridtokenx.cluster.devnet import (
    DAILY_CAP_WH,
    DEV_ACCOUNT,
    LICENCE_EXPIRY_MS,
    PAYMENT,
    dev_key,
    operator_key,
)
from gridtokenx.cluster.processes import ClusterError
from gridtokenx.primitives.crypto import kyc_reference
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import UTHB_PER_THB
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)

LOCATION = "BKK-01-SUB001"
DISTRIBUTOR = "mea"
NAMEPLATE_W = 500_000
DEPOSIT_UTHB = 10_000 * UTHB_PER_THB
TIMEOUT_S = 60.0


def fund_dev_account(client: Client, name: str = DEV_ACCOUNT) -> None:
    """Register an account and its meter, deposit baht; wait until that is final.

    Errors: ClusterError with the node's reason.
    """
    chain = client.genesis().chain_of_location(LOCATION).name
    account = dev_key(name).public_key
    meter = dev_key(f"{name} meter").public_key
    participant = RegisterParticipant(
        account=account,
        role=Role.PROSUMER,
        kyc_ref=kyc_reference(b"gridtokenx local", name.encode()),
        licence_class=LicenceClass.EXEMPT_LT_1000KVA,
        licence_expiry_ms=LICENCE_EXPIRY_MS,
        vat_registered=False,
        territory=territory_of(LOCATION),
        consent_version=1,
        daily_cap_wh=DAILY_CAP_WH,
    )
    metering_point = RegisterMeter(
        meter_id=meter,
        owner=account,
        location=LOCATION,
        nameplate_import_w=NAMEPLATE_W,
        nameplate_export_w=NAMEPLATE_W,
        source=Generation.SOLAR,
        prosumer_class=ProsumerClass.RESIDENTIAL,
    )
    try:
        first = client.nonce(operator_key(DISTRIBUTOR).public_key, chain)
        transactions = [
            _sign(client, chain, DISTRIBUTOR, participant, first),
            _sign(client, chain, DISTRIBUTOR, metering_point, first + 1),
            _sign(
                client,
                chain,
                PAYMENT,
                client.sign_deposit(operator_key(PAYMENT), chain, account, DEPOSIT_UTHB),
                None,
            ),
        ]
        for outcome in client.send_many(transactions):
            if outcome is not None:
                raise outcome
        client.wait_for([one.id.hex() for one in transactions], timeout_s=TIMEOUT_S)
    except RpcError as error:
        raise ClusterError(f"the account {name} could not be funded: {error}", error.hint) from None


def _sign(
    client: Client, chain: str, organisation: str, payload: Payload, nonce: int | None
) -> Transaction:
    return client.sign(operator_key(organisation), chain, payload, nonce)
