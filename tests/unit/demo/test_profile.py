"""The demonstration day is a function of its file: same forecasts, offers and meters everywhere."""

from __future__ import annotations

from itertools import pairwise

from gridtokenx.demo.gateways import Gateway
from gridtokenx.demo.profile import is_tou_peak, load_profile
from gridtokenx.grid.model import signed_bytes
from gridtokenx.primitives.crypto import verify
from gridtokenx.trading.model import Side

PROFILE = load_profile()
DAY = PROFILE.slots()


def trader(name: str):
    return next(each for each in PROFILE.traders if each.name == name)


def test_the_day_has_eighteen_traders_and_96_slots():
    assert (len(PROFILE.traders), len(DAY), DAY[0]) == (18, 96, 1970660)
    assert all(len(each.gen_wh) == len(each.load_wh) == 96 for each in PROFILE.traders)
    assert len({each.key.public_key for each in PROFILE.traders}) == 18


def test_offers_are_distinct_and_bids_follow_the_tariff():
    noon, night = DAY[48], DAY[4]
    asks = [each.limit_mthb(Side.SELL, noon) for each in PROFILE.traders]
    assert len(set(asks)) == 18
    assert min(asks) == 2301
    assert trader("T77 mall").limit_mthb(Side.BUY, noon) == 4392 - 1
    assert trader("T77 mall").limit_mthb(Side.BUY, night) == 2699 - 1
    assert trader("Nonthaburi shop").limit_mthb(Side.BUY, noon) == 3900 - 8


def test_the_tou_peak_is_from_nine_to_twenty_two_on_a_monday():
    peak = [index for index, slot in enumerate(DAY) if is_tou_peak(slot)]
    assert (peak[0], peak[-1], len(peak)) == (36, 87, 52)
    assert not any(is_tou_peak(slot - 96) for slot in DAY)  # The Sunday before.


def test_an_order_is_the_forecast_surplus_or_deficit():
    school = trader("T77 school")
    noon = school.order(48, DAY[48])
    assert noon is not None
    assert (noon.side, noon.energy_wh) == (Side.SELL, school.gen_wh[48] - school.load_wh[48])
    night = school.order(0, DAY[0])
    assert night is not None
    assert (night.side, night.energy_wh) == (Side.BUY, school.load_wh[0])


def test_every_order_is_within_its_meter_and_the_band():
    for each in PROFILE.traders:
        for index, slot in enumerate(DAY):
            order = each.order(index, slot)
            if order is not None:
                selling = order.side is Side.SELL
                nameplate_w = each.nameplate_w if selling else each.import_nameplate_w
                assert 100 <= order.energy_wh <= nameplate_w // 4
                assert 1000 <= order.limit_mthb <= 10_000


def test_clouds_and_trips_come_about_as_often_as_told():
    solar = [each for each in PROFILE.traders if each.source == "solar"]
    lit = [(each, i) for each in solar for i in range(96) if each.gen_wh[i] > 100]
    cloudy = [1 for each, i in lit if each.actual_gen_wh(i, DAY[i]) < each.gen_wh[i]]
    assert 0.08 < len(cloudy) / len(lit) < 0.16
    plants = [each for each in PROFILE.traders if each.role == "producer"]
    trips = [
        1 for each in plants for i in range(96) if each.actual_gen_wh(i, DAY[i]) < each.gen_wh[i]
    ]
    assert 0 < len(trips) / (96 * len(plants)) < 0.05


def test_registers_only_rise_and_readings_are_the_meters():
    chain_id = bytes(32)
    each = trader("KKC homes")
    gateway = Gateway(each, chain_id, each.meter_key)
    for index, slot in enumerate(DAY):
        gateway.count(index, slot, is_first=slot == DAY[0])
    readings = [one for command in gateway.take() for one in command.readings]
    assert [one.slot for one in readings] == [DAY[0] - 1, *DAY]
    for before, after in pairwise(readings):
        assert before.import_wh_cum <= after.import_wh_cum
        exported = after.export_wh_cum - before.export_wh_cum
        assert 0 <= exported <= each.nameplate_w * 11 // 40
        assert after.seq == before.seq + 1
    for one in readings:
        assert verify(each.meter_key.public_key, signed_bytes(chain_id, one), one.signature)


def test_every_region_has_both_sides_from_ten_oclock():
    for prefix in ("BKK", "CNX", "KKC", "NMA"):
        for index in range(40, 52):
            orders = [
                each.order(index, DAY[index])
                for each in PROFILE.traders
                if each.location.startswith(prefix)
            ]
            assert {order.side for order in orders if order} == {Side.BUY, Side.SELL}
