"""Schedules: the formula, the steps at which masks change, and their configs."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet_tf.pruning import ConstantSparsity, PolynomialDecay
from sparsenet_tf.pruning.schedules import as_schedule

FEW = settings(max_examples=60, deadline=None, database=None)


def tfmot_sparsity(step, initial, final, begin, end, power):
    """tensorflow-model-optimization's PolynomialDecay, written again."""
    p = min(1.0, max(0.0, (step - begin) / (end - begin)))
    return (initial - final) * (1 - p) ** power + final


@st.composite
def decays(draw):
    initial, final = sorted(draw(st.tuples(*[st.floats(0, 0.999)] * 2)))
    begin = draw(st.integers(0, 50))
    return PolynomialDecay(
        initial,
        final,
        begin,
        begin + draw(st.integers(0, 80)),
        power=draw(st.sampled_from([0.5, 1, 2, 3, 3.7])),
        frequency=draw(st.integers(1, 100)),
    )


@pytest.mark.parametrize(
    "step, sparsity",
    [(0, 0.0), (250, 0.2890625), (500, 0.4375), (750, 0.4921875), (1000, 0.5)],
)
def test_cubic_decay_by_hand(step, sparsity):
    assert PolynomialDecay(0.0, 0.5, 0, 1000)(step) == sparsity


def test_linear_decay_by_hand():
    schedule = PolynomialDecay(0.25, 0.75, 100, 200, power=1)
    assert [schedule(t) for t in (99, 100, 125, 150, 175, 200, 10**9)] == [
        0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 0.75,
    ]  # fmt: skip


@pytest.mark.parametrize("power", [1, 2, 3, 0.5, 4.5])
def test_equals_tfmots_formula_at_every_step(power):
    schedule = PolynomialDecay(0.3, 0.95, 70, 730, power=power)
    for step in range(1000):
        expected = tfmot_sparsity(step, 0.3, 0.95, 70, 730, power)
        expected = 0.0 if step < 70 else expected
        assert schedule(step) == pytest.approx(expected, abs=1e-12)


def test_defaults_are_power_3_and_frequency_200():
    schedule = PolynomialDecay(0.0, 0.5, 0, 1000)
    assert (schedule.power, schedule.frequency) == (3, 200)
    assert ConstantSparsity(0.5, 0).frequency == 200


@FEW
@given(decays())
def test_never_decreases_and_stays_in_its_bounds(schedule):
    steps = range(schedule.begin_step, schedule.end_step + 5)
    values = [schedule(step) for step in steps]
    assert values == sorted(values)
    low, high = schedule.initial_sparsity, schedule.final_sparsity
    assert low - 1e-12 <= values[0] and values[-1] == high
    assert all(0 <= v <= high for v in values)


@FEW
@given(decays())
def test_nothing_before_begin(schedule):
    for step in range(schedule.begin_step):
        assert schedule(step) == 0.0
        assert schedule.last_update(step) is None


@FEW
@given(decays())
def test_updates_are_begin_each_frequency_and_the_end(schedule):
    begin, end = schedule.begin_step, schedule.end_step
    updates = sorted({*range(begin, end, schedule.frequency), begin, end})
    for step in range(begin, end + 120):
        last = max(update for update in updates if update <= step)
        assert schedule.last_update(step) == last


@pytest.mark.parametrize("frequency", [1, 3, 7, 10, 11, 1000])
def test_the_end_is_an_update_whatever_the_frequency(frequency):
    schedule = PolynomialDecay(0.0, 0.9, 5, 15, frequency=frequency)
    for step in (15, 16, 99):
        assert schedule.last_update(step) == 15
    assert schedule(schedule.last_update(15)) == 0.9
    assert schedule.last_update(14) == {1: 14, 3: 14, 7: 12}.get(frequency, 5)


@pytest.mark.parametrize("step", [0, 7])
def test_begin_equal_to_end_prunes_at_once(step):
    schedule = PolynomialDecay(0.0, 0.8, step, step)
    assert schedule(step) == schedule(step + 1) == 0.8
    assert schedule.last_update(step) == schedule.last_update(step + 100) == step
    if step:
        assert schedule(step - 1) == 0.0 and schedule.last_update(step - 1) is None


def test_equal_sparsities_are_constant():
    schedule = PolynomialDecay(0.5, 0.5, 0, 10)
    assert {schedule(step) for step in range(20)} == {0.5}


def test_steps_may_be_numpy_integers():
    schedule = PolynomialDecay(0.0, 0.5, np.int64(0), np.int32(1000))
    assert schedule(np.int64(500)) == 0.4375
    assert schedule.last_update(np.int64(450)) == 400
    json.dumps(schedule.get_config())


def test_steps_beyond_32_bits():
    big = 2**40
    schedule = PolynomialDecay(0.0, 0.5, big, big + 1000)
    assert schedule(big + 500) == 0.4375
    assert schedule.last_update(big + 450) == big + 400


def test_constant_sparsity():
    schedule = ConstantSparsity(0.7, begin_step=10, frequency=5)
    assert [schedule(t) for t in (0, 9, 10, 11, 10**6)] == [0, 0, 0.7, 0.7, 0.7]
    updates = [schedule.last_update(t) for t in (9, 10, 14, 15, 19, 20, 1004)]
    assert updates == [None, 10, 10, 15, 15, 20, 1000]
    assert schedule.final_sparsity == 0.7 and schedule.end_step == -1


def test_constant_sparsity_with_an_end_stops_updating():
    schedule = ConstantSparsity(0.7, begin_step=10, end_step=20, frequency=5)
    assert [schedule.last_update(t) for t in (19, 20, 25, 1000)] == [15, 20, 20, 20]
    assert schedule(1000) == 0.7


SCHEDULES = [
    PolynomialDecay(0.1, 0.9, 3, 77, power=2.5, frequency=9),
    PolynomialDecay(0.0, 0.5, 0, 1000),
    ConstantSparsity(0.9, 5, 50, frequency=3),
    ConstantSparsity(0.5, 0),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_config_round_trip_through_json(schedule):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    new = keras.saving.deserialize_keras_object(config)
    assert type(new) is type(schedule) and new is not schedule
    assert new.get_config() == schedule.get_config()
    for step in range(100):
        assert new(step) == schedule(step)
        assert new.last_update(step) == schedule.last_update(step)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_config_names_every_argument(schedule):
    new = type(schedule)(**schedule.get_config())
    assert vars(new) == vars(schedule)
    assert type(schedule).from_config(schedule.get_config())(60) == schedule(60)


class Foreign:
    """As in tensorflow-model-optimization: callable, with a nested config."""

    def __init__(self, class_name, **config):
        self.config = {"class_name": class_name, "config": config}

    def __call__(self, step):
        return True, 0.0

    def get_config(self):
        return self.config


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_as_schedule_returns_its_own(schedule):
    assert as_schedule(schedule) is schedule


def test_as_schedule_returns_an_object_with_the_same_methods():
    class Half:
        final_sparsity, end_step = 0.5, 10

        def __call__(self, step):
            return 0.5

        def last_update(self, step):
            return 0

    schedule = Half()
    assert as_schedule(schedule) is schedule


def test_as_schedule_translates_a_polynomial_decay():
    schedule = as_schedule(
        Foreign(
            "PolynomialDecay",
            initial_sparsity=0.2,
            final_sparsity=0.8,
            power=2,
            begin_step=10,
            end_step=110,
            frequency=30,
        )
    )
    assert type(schedule) is PolynomialDecay
    for step in range(10, 150):
        expected = tfmot_sparsity(step, 0.2, 0.8, 10, 110, 2)
        assert schedule(step) == pytest.approx(expected, abs=1e-12)
    assert [schedule.last_update(t) for t in (9, 39, 40, 110)] == [None, 10, 40, 110]


def test_as_schedule_translates_a_constant_sparsity():
    schedule = as_schedule(
        Foreign(
            "ConstantSparsity",
            target_sparsity=0.6,
            begin_step=4,
            end_step=-1,
            frequency=100,
        )
    )
    assert type(schedule) is ConstantSparsity
    assert schedule.get_config() == {
        "target_sparsity": 0.6, "begin_step": 4, "end_step": -1, "frequency": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        None,
        0.5,
        "PolynomialDecay",
        lambda step: 0.5,
        Foreign("Other", begin_step=0),
        keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5),
        {"class_name": "PolynomialDecay", "config": {}},
        PolynomialDecay,
        ConstantSparsity,
        Foreign,
    ],
)
def test_as_schedule_rejects_others(other):
    with pytest.raises(TypeError, match="`schedule` must be a PolynomialDecay"):
        as_schedule(other)


GOOD = {
    PolynomialDecay: {
        "initial_sparsity": 0.1,
        "final_sparsity": 0.5,
        "begin_step": 1,
        "end_step": 9,
    },
    ConstantSparsity: {"target_sparsity": 0.5, "begin_step": 1},
}
STEPS = [("begin_step", -1), ("frequency", 0), ("frequency", -3), ("end_step", 0)]


@pytest.mark.parametrize("cls", GOOD)
@pytest.mark.parametrize("name, value", STEPS)
def test_step_out_of_range(cls, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .* or more"):
        cls(**{**GOOD[cls], name: value})


@pytest.mark.parametrize("cls", GOOD)
@pytest.mark.parametrize("name", ["begin_step", "end_step", "frequency"])
@pytest.mark.parametrize("value", [2.0, 2.5, "2", None, True])
def test_step_that_is_no_integer(cls, name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be an integer"):
        cls(**{**GOOD[cls], name: value})


@pytest.mark.parametrize(
    "cls, name",
    [
        (PolynomialDecay, "initial_sparsity"),
        (PolynomialDecay, "final_sparsity"),
        (ConstantSparsity, "target_sparsity"),
    ],
)
@pytest.mark.parametrize(
    "value, error",
    [
        (1.0, ValueError),
        (-0.1, ValueError),
        (float("nan"), ValueError),
        ("0.5", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_bad_sparsity(cls, name, value, error):
    with pytest.raises(error, match=f"`{name}` must be"):
        cls(**{**GOOD[cls], name: value})


def test_sparsity_must_not_fall():
    with pytest.raises(ValueError, match="`final_sparsity` must be at least"):
        PolynomialDecay(0.6, 0.5, 0, 10)


@pytest.mark.parametrize("power", [0, -1, float("nan"), float("inf"), "3", None])
def test_bad_power(power):
    with pytest.raises((TypeError, ValueError), match="`power` must be"):
        PolynomialDecay(0.0, 0.5, 0, 10, power=power)


@pytest.mark.parametrize("power", [np.int64(2), np.float32(2), np.float64(2)])
def test_power_may_be_a_numpy_number_as_sparsities_may(power):
    schedule = PolynomialDecay(0.0, 0.5, 0, 10, power=power)
    assert schedule(5) == pytest.approx(0.375)
    json.dumps(schedule.get_config())


def test_polynomial_decay_needs_an_end():
    with pytest.raises(ValueError, match="`end_step`"):
        PolynomialDecay(0.0, 0.5, 0, -1)
