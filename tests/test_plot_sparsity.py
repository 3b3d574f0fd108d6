"""Pictures of schedules and of what came of them."""

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.pruning import ConstantSparsity, PolynomialDecay, PruningCallback


def trained(callback, steps, model=None):
    if model is None:
        model = stf.sparsify(
            keras.Sequential(
                [
                    keras.Input((10,)),
                    keras.layers.Dense(20, name="hidden"),
                    keras.layers.Dense(5, name="out"),
                ]
            )
        )
        model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(steps * 4, 10)), rng.normal(size=(steps * 4, 5))
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
    return model


def lines(figure):
    [axes] = figure.axes
    return {line.get_label(): line for line in axes.get_lines()}


def test_planned_is_the_schedule():
    schedule = PolynomialDecay(0.1, 0.7, begin_step=5, end_step=45, frequency=10)
    drawn = lines(stf.plot_sparsity(schedule, end_step=60))
    assert list(drawn) == ["schedule", "planned updates"]
    steps, percent = drawn["schedule"].get_data()
    assert steps.tolist() == list(range(61))
    assert percent == pytest.approx([100 * schedule(step) for step in range(61)])
    steps, percent = drawn["planned updates"].get_data()
    expected = [0] * 5
    for due in (5, 15, 25, 35):
        expected += 10 * [100 * schedule(due)]
    expected += 16 * [70]
    assert percent == pytest.approx(expected)
    assert drawn["planned updates"].get_drawstyle() == "steps-post"


def test_the_end_is_in_the_picture():
    decay = PolynomialDecay(0, 0.5, begin_step=0, end_step=1000)
    assert stf.plot_sparsity(decay).axes[0].get_xlim() == (0, 1100)
    constant = ConstantSparsity(0.5, begin_step=300)
    assert stf.plot_sparsity(constant).axes[0].get_xlim() == (0, 330)
    assert stf.plot_sparsity(ConstantSparsity(0.5, 0)).axes[0].get_xlim()[1] > 0


def test_a_line_for_each_kernel():
    schedule = PolynomialDecay(0.0, 0.8, begin_step=4, end_step=24, frequency=5)
    callback = PruningCallback(schedule, scope="global")
    model = trained(callback, 30)
    assert list(callback.updates) == [4, 9, 14, 19, 24]
    masks = stf.get_masks(model)
    drawn = lines(stf.plot_sparsity(callback, end_step=30))
    assert list(drawn)[2:] == ["hidden/kernel", "out/kernel"]
    for path, mask in masks.items():
        steps, percent = drawn[path].get_data()
        assert steps.tolist() == [4, 9, 14, 19, 24, 30]
        assert percent[-1] == percent[-2] == pytest.approx(100 * (1 - mask.mean()))
        assert (np.diff(percent) >= 0).all() and percent[0] == 0
    for step, shares in callback.updates.items():
        both = (200 * shares["hidden/kernel"] + 100 * shares["out/kernel"]) / 300
        assert both == pytest.approx(schedule(step), abs=0.5 / 300)
    markers = {drawn[path].get_marker() for path in masks}
    assert len(markers) == 2  # told apart without colours


def test_updates_go_on_over_calls_of_fit_and_start_again_with_a_new_model():
    schedule = PolynomialDecay(0.0, 0.6, begin_step=0, end_step=20, frequency=10)
    callback = PruningCallback(schedule)
    with pytest.warns(UserWarning, match="Training ended at step 15"):
        model = trained(callback, 15)
    assert list(callback.updates) == [0, 10]
    trained(callback, 10, model)
    # The update at 10 is looked at once more when training goes on at 15.
    assert list(callback.updates) == [0, 10, 15, 20]
    assert callback.updates[15] == callback.updates[10]
    with pytest.warns(UserWarning, match="Training ended at step 5"):
        trained(callback, 5)
    assert list(callback.updates) == [0]


def test_excluded_kernels_have_no_line():
    callback = PruningCallback(ConstantSparsity(0.5, 2), exclude="out")
    trained(callback, 5)
    assert callback.updates == {2: {"hidden/kernel": 0.5}}
    assert "out/kernel" not in lines(stf.plot_sparsity(callback))


def test_the_legend_is_beside_the_lines():
    callback = PruningCallback(ConstantSparsity(0.5, 2))
    trained(callback, 5)
    figure = stf.plot_sparsity(callback)
    figure.savefig("/dev/null", format="png")
    [legend] = figure.legends
    box = legend.get_window_extent()
    assert not box.overlaps(figure.axes[0].get_window_extent())
    assert box.x1 <= figure.bbox.width
    assert len(legend.get_texts()) == 4


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="`schedule` must be"):
        stf.plot_sparsity(0.5)
    with pytest.raises(ValueError, match="`end_step` must be 1 or more"):
        stf.plot_sparsity(ConstantSparsity(0.5, 0), end_step=0)
