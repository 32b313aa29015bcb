"""The national chain's own work: stake, votes and what they do, messages. Contexts do not know each
other: this module carries values between them. Source:
protocols/state-transition.md 5, protocols/governance.md 1, 2, protocols/interchain.md 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gridtokenx.chain import authorities, crossing, limits
from gridtokenx.chain.authorities import AuthorityEntry
from gridtokenx.chain.block import Event
from gridtokenx.chain.genesis import ChainSpec, check_unbonding
from gridtokenx.chain.standing import is_backed
from gridtokenx.chain.transaction import Transaction
from gridtokenx.chain.validator_sets import (
    current_set,
    epoch_start,
    order_set,
    refuse_change,
    sets_from,
)
from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.governance import parameters as voted
from gridtokenx.governance import rules as governance
from gridtokenx.governance import tally
from gridtokenx.governance.model import (
    Action,
    ApproveAsAuthority,
    AuthorityManagement,
    CancelProposal,
    Emergency,
    InfrastructureFunding,
    OperatorRotation,
    Pool,
    ProposalConcluded,
    ProposalExecuted,
    ProposalFailed,
    ProposalStatus,
    Propose,
    Reincarnation,
    SetParameter,
    Surroundings,
    Upgrade,
    Vote,
    VotingPower,
)
from gridtokenx.interchain import checkpoints, incarnations
from gridtokenx.interchain.model import (
    AuthorityMember,
    HaltOrder,
    OperatorOrder,
    ParameterOrder,
    SubmitCheckpoint,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.codec import decode, wire
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader, Table
from gridtokenx.primitives.types import Address
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.registry import rules as registry
from gridtokenx.staking import penalties, pools
from gridtokenx.staking import rules as staking
from gridtokenx.staking.model import VALIDATORS as POOLS
from gridtokenx.staking.model import (
    Bond,
    CreateValidator,
    Redelegate,
    StakingEvent,
    Unbond,
    Unjail,
    UpdateValidator,
)
from gridtokenx.trading import rules as trading


@wire(239)
@dataclass(frozen=True, slots=True)
class LastProposer:
    """Consensus key of the newest block's proposer: it was there, whatever certificate it made."""

    public_key: Address


LAST_PROPOSER = Table(b"cp", LastProposer)  # key: b""
_RECORDS: dict[voted.Owner, tuple[Callable[[Reader], Any], Callable[[Overlay, Any], None]]] = {
    voted.Owner.MARKET: (trading.parameters, trading.set_parameters),
    voted.Owner.STAKING: (pools.parameters, pools.set_parameters),
    voted.Owner.GOVERNANCE: (governance.parameters, governance.set_parameters),
    voted.Owner.INTERCHAIN: (checkpoints.parameters, checkpoints.set_parameters),
}


def begin_block(
    state: Overlay, *, spec: ChainSpec, height: int, now_ms: int, last_commit: bytes
) -> Sequence[Event]:
    """Stake that matures, absences, the next set, votes that end, regions that are silent."""
    events: list[Event] = []
    members, seen = _attendance(state, height, last_commit)
    finished = staking.begin_block(state, height=height, members=members, seen=seen)
    events += carry_to_votes(state, finished)
    epoch_blocks = spec.genesis.epoch_blocks
    if height % epoch_blocks == 0:
        events += _order_set(state, height, epoch_blocks)
    around = surroundings(state, spec)
    for event in governance.begin_block(
        state,
        now_ms=now_ms,
        grace_ms=spec.gate_grace_ms,
        power=lambda: voting_power(state),
        around=around,
    ):
        events += _enact(state, event, spec, height)
    events += checkpoints.begin_block(state, height=height)
    return events


def end_block(state: Overlay, proposer_key: bytes) -> Sequence[Event]:
    """Fees and the block reward go to the proposer's pool."""
    LAST_PROPOSER.put(state, b"", LastProposer(proposer_key))
    return carry_to_votes(state, staking.reward_proposer(state, proposer_key))


def punish(
    state: Overlay, evidence: Evidence, signers: ValidatorSet, *, height: int, epoch_blocks: int
) -> Sequence[Event]:
    """Slash for an accepted piece of evidence; `signers` is the set of the offence's height.

    That set was elected two epochs before its own by the stake of then, also where it had been
    ordered long before and no election changed it.
    """
    index = signers.index_of(evidence.public_key)
    epoch_height = epoch_start(evidence.height, epoch_blocks)
    return penalties.punish_offence(
        state,
        evidence.public_key,
        offence_height=evidence.height,
        epoch_height=epoch_height,
        backed_since=max(0, epoch_height - 2 * epoch_blocks),
        weight=0 if index is None else signers.members[index].weight,
        total_weight=signers.total_weight,
        height=height,
    )


def run_command(
    state: Overlay, transaction: Transaction, *, spec: ChainSpec, height: int, now_ms: int
) -> Sequence[Event]:
    """A command of the national chain. Errors: NOT_PERMITTED for one of the regions, the rules'."""
    sender = transaction.sender
    match transaction.payload:
        case Transfer(to, asset, amount) as command:
            ledger.check_recipient(state, to, asset, amount, is_backed)
            return ledger.transfer(state, command, sender=sender)
        case SubmitCheckpoint() as command:
            return crossing.submit_checkpoint(
                state, command, spec=spec, height=height, now_ms=now_ms
            )
        case CreateValidator() | UpdateValidator() | Bond() | Unbond() | Redelegate() | Unjail():
            return carry_to_votes(state, _run_staking(state, transaction, spec, height))
        case Propose() | Vote() | ApproveAsAuthority() | CancelProposal():
            return _run_governance(state, transaction, spec, height, now_ms)
        case other:
            detail = f"{type(other).__name__} is for region chains, not for {spec.name}"
            raise Rejected(ErrorCode.NOT_PERMITTED, detail)


def _run_staking(
    state: Overlay, transaction: Transaction, spec: ChainSpec, height: int
) -> list[StakingEvent]:
    sender, chain_id = transaction.sender, spec.chain_id
    match transaction.payload:
        case CreateValidator() as command:
            return staking.create_validator(
                state, command, sender=sender, chain_id=chain_id, height=height
            )
        case UpdateValidator() as command:
            return staking.update_validator(
                state, command, sender=sender, chain_id=chain_id, height=height
            )
        case Bond() as command:
            return staking.bond(state, command, sender=sender)
        case Unbond() as command:
            return staking.unbond(state, command, sender=sender, height=height)
        case Redelegate() as command:
            return staking.redelegate(state, command, sender=sender, height=height)
        case _:
            return staking.unjail(state, sender=sender, height=height)


def carry_to_votes(state: Overlay, events: Iterable[StakingEvent]) -> Sequence[Event]:
    """What stake did, carried to the votes that are open."""
    carried: list[Event] = []
    for event in events:
        for delegator, validator, shares in staking.shares_moved(event):
            if shares:
                tally.move_stake(state, delegator, validator, shares)
        carried.append(event)
    return carried


def _run_governance(
    state: Overlay, transaction: Transaction, spec: ChainSpec, height: int, now_ms: int
) -> Sequence[Event]:
    sender = transaction.sender
    around = surroundings(state, spec)
    match transaction.payload:
        case Propose() as command:
            if isinstance(command.content, InfrastructureFunding):
                to, amount_ugtx = command.content.to, command.content.amount_ugtx
                ledger.check_recipient(state, to, Asset.GTX, amount_ugtx, is_backed)
            return governance.propose(state, command, sender=sender, now_ms=now_ms, around=around)
        case Vote() as command:
            power = voting_power(state)
            return governance.vote(state, command, sender=sender, now_ms=now_ms, power=power)
        case ApproveAsAuthority() as command:
            organisation = registry.organisation_of_operator(state, sender).name
            events: list[Event] = []
            for event in governance.approve_as_authority(
                state, command, organisation=organisation, now_ms=now_ms, around=around
            ):
                events += _enact(state, event, spec, height)
            content = governance.proposal(state, command.proposal).content
            if isinstance(content, Reincarnation):
                # What may be decided anew must not go on moving money meanwhile.
                events += incarnations.hold(state, content.chain, command.proposal, height)
            return events
        case CancelProposal() as command:
            return governance.cancel_proposal(state, command, sender=sender, now_ms=now_ms)
        case other:
            raise ValueError(f"{type(other).__name__} is no command of governance")


# -- The validator set -----------------------------------------------------------------------------


def _attendance(
    state: Reader, height: int, last_commit: bytes
) -> tuple[list[bytes], frozenset[bytes]]:
    """Keys of the previous block's set, and those that signed its certificate or proposed it."""
    last = LAST_PROPOSER.get(state, b"")
    if last is None or not last_commit:
        return [], frozenset()
    members = [one.public_key for one in current_set(state, height - 1).validators.members]
    certificate = decode(QuorumCertificate, last_commit)
    signed = [members[one.index] for one in certificate.signatures if one.index < len(members)]
    return members, frozenset([*signed, last.public_key])


def _order_set(state: Overlay, height: int, epoch_blocks: int) -> Sequence[Event]:
    newest = sets_from(state, height, epoch_blocks).scheduled[-1].validators
    elected, events = staking.order_validators(state, newest)
    accounts = []
    for member in elected.members:
        pool = pools.validator_of_key(state, member.public_key)
        accounts.append(member.public_key if pool is None else pool.operator)
    ordered = order_set(state, elected, accounts, height=height, epoch_blocks=epoch_blocks)
    return [*events, *([] if ordered is None else [ordered])]


# -- Governance ------------------------------------------------------------------------------------


def voting_power(state: Reader) -> VotingPower:
    """Bonded stake, as governance counts it."""
    return VotingPower(
        pools.total_bonded_ugtx(state),
        lambda voter: pools.shares_by_validator(state, voter),
        lambda operator: _pool(state, operator),
    )


def _pool(state: Reader, operator: bytes) -> Pool | None:
    found = POOLS.get(state, operator)
    return None if found is None else Pool(found.stake_ugtx, found.shares)


def surroundings(state: Reader, spec: ChainSpec) -> Surroundings:
    """What proposals are judged by: the parameters in force, the authorities of the regions."""

    def check_values(changes: Mapping[str, int]) -> None:
        if "staking.unbonding" in changes:
            check_unbonding(spec.genesis, changes["staking.unbonding"])
        limits.check_values(state, changes, spec.times)

    def check_reincarnation(command: Reincarnation) -> None:
        for entry in authorities.reborn(state, command):
            registry.organisation(state, entry.organisation)
        incarnations.check_base(state, command.chain, command.height, command.block_hash)

    def check_rotation(command: OperatorRotation) -> None:
        ledger.check_has_key(command.new_operator)
        registry.check_rotation(state, command.organisation, command.new_operator)

    return Surroundings(
        value_of=lambda name: value_of(state, name),
        region_of=lambda territory: spec.genesis.chain_of_location(territory).name,
        authorities_of=lambda region: authorities.active_weights(state, region),
        check_authority_change=lambda command: _check_authority_change(state, command),
        check_values=check_values,
        check_rotation=check_rotation,
        check_reincarnation=check_reincarnation,
        organisations=[one.name for one in registry.organisations(state)],
        regulator=registry.regulator(state),
    )


def _check_authority_change(state: Reader, command: AuthorityManagement) -> None:
    before = authorities.authorities_of(state, command.chain)
    after = authorities.changed(state, command)
    for entry in after:
        registry.organisation(state, entry.organisation)
    checkpoints.check_may_order(state, command.chain)
    refusal = refuse_change(
        authorities.signing(before),
        authorities.signing(after),
        organisation_of={one.public_key: one.organisation for one in (*before, *after)},
        minimum_members=1,
        held=authorities.signing([replace(one, suspended=False) for one in before]),
    )
    if refusal is not None:
        raise Rejected(ErrorCode.NOT_PERMITTED, refusal)


def value_of(state: Reader, name: str) -> int:
    """A parameter's value in force on this chain. Errors: UNKNOWN_PARAMETER."""
    parameter = voted.find(name)
    return voted.value_in(_RECORDS[parameter.owner][0](state), parameter)


def _enact(state: Overlay, event: Any, spec: ChainSpec, height: int) -> Sequence[Event]:
    """An event of governance and, if it orders anything, what came of that: all of it or none."""
    if isinstance(event, ProposalConcluded | ProposalFailed):
        return [event, *_release(state, event, height)]
    if not isinstance(event, ProposalExecuted):
        return [event]
    attempt = Overlay(state)
    told: list[Event] = []
    try:
        for action in event.actions:
            told += _run_action(attempt, action, spec, event.proposal, height)
        attempt.merge()
    except Rejected as error:
        failed = governance.fail(state, event.proposal, error.detail[:200])
        return [each for one in failed for each in _enact(state, one, spec, height)]
    return [event, *told]


def _release(
    state: Overlay, event: ProposalConcluded | ProposalFailed, height: int
) -> Sequence[Event]:
    """A vote on a reincarnation has ended without one: the region is free again."""
    content = governance.proposal(state, event.proposal).content
    passed = isinstance(event, ProposalConcluded) and event.status is ProposalStatus.QUEUED
    if passed or not isinstance(content, Reincarnation):
        return []
    return incarnations.release(state, content.chain, event.proposal, height)


def _run_action(
    state: Overlay, action: Action, spec: ChainSpec, proposal: int, height: int
) -> Sequence[Event]:
    """What comes of an action beyond its proposal's event.

    Errors: those of the rules that act, where the world has changed since the vote began.
    """
    home = crossing.home_of(spec)
    match action:
        case SetParameter(name, value):
            _set_parameter(state, voted.find(name), value)
            if voted.find(name).owner is voted.Owner.MARKET:
                for region in checkpoints.regions(state):
                    order = ParameterOrder(name, value)
                    checkpoints.send_order(state, region.name, order, home=home, height=height)
        case Emergency(territory, reason, duration_ms):
            halt = HaltOrder(territory, reason, duration_ms)
            name = spec.genesis.chain_of_location(territory).name
            checkpoints.send_order(state, name, halt, home=home, height=height)
        case AuthorityManagement():
            _change_authorities(state, action, spec, height)
        case OperatorRotation(organisation, new_operator):
            registry.rotate_operator(state, organisation, new_operator)
            for region in checkpoints.regions(state):
                rotation = OperatorOrder(organisation, new_operator)
                checkpoints.send_order(state, region.name, rotation, home=home, height=height)
        case Reincarnation():
            return _reincarnate(state, action, spec, proposal, height)
        case Upgrade():
            pass  # Its operators read it from the event: a program cannot replace itself.
    return []


def _reincarnate(
    state: Overlay, action: Reincarnation, spec: ChainSpec, proposal: int, height: int
) -> Sequence[Event]:
    after = authorities.reborn(state, action)
    authorities.install_authorities(state, action.chain, after)
    return incarnations.reincarnate(
        state,
        action.chain,
        action.height,
        action.block_hash,
        _members(state, after),
        proposal=proposal,
        home=crossing.home_of(spec),
        height=height,
    )


def _set_parameter(state: Overlay, parameter: voted.Parameter, value: int) -> None:
    parameters, set_parameters = _RECORDS[parameter.owner]
    set_parameters(state, voted.with_value(parameters(state), parameter, value))


def _change_authorities(
    state: Overlay, action: AuthorityManagement, spec: ChainSpec, height: int
) -> None:
    after = authorities.changed(state, action)
    authorities.install_authorities(state, action.chain, after)
    checkpoints.order_authorities(
        state,
        action.chain,
        _members(state, after),
        home=crossing.home_of(spec),
        height=height,
    )


def _members(state: Reader, entries: Sequence[AuthorityEntry]) -> list[AuthorityMember]:
    """Those that sign, with the accounts of their organisations."""
    return [
        AuthorityMember(
            entry.public_key, entry.weight, registry.organisation(state, entry.organisation).account
        )
        for entry in entries
        if not entry.suspended
    ]
