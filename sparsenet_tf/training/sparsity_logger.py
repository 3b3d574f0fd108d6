"""`SparsityLogger`: what is left of each kernel, for TensorBoard."""

import os

import keras
import numpy as np
from keras import ops

from sparsenet_tf.pruning.callback import PruningCallback
from sparsenet_tf.topology.checks import check_integer, check_path, shown
from sparsenet_tf.transform.summary import summary
from sparsenet_tf.visualization.mask_image import mask_images


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class SparsityLogger(keras.callbacks.Callback):
    """Writes sparsity, dead units and pictures of masks where TensorBoard finds them.

    They are a run of their own, `log_dir/sparsity`, beside the `train` and
    `validation` of `keras.callbacks.TensorBoard`, which may have the same `log_dir`.
    Steps are the optimizer's. Each time are written, for each kernel that has a mask
    or belongs to a layer that holds only nonzeros,

    - `sparsity/PATH`: share of zeros in the kernel;
    - `dead_inputs/PATH` and `dead_outputs/PATH`: how many input and output units have
      no nonzero weight left in it;
    - `masks/PATH`: the mask as a picture, if it has changed, as `stf.plot_masks` draws
      it: black where a weight is kept, or darker where more of them are;

    and `sparsity/total`, of all kernels of the model together. With a
    `PruningCallback`, `sparsity/planned` is what its schedule has come to at its last
    update, and `sparsity/pruned` the share masked in the kernels that it prunes.

    They are written when training begins, then every `update_freq`, and when it ends.
    Each time takes about a tenth of a second for a million weights, most of it for
    pictures. TensorFlow writes the files, with any backend of Keras; the package
    tensorboard (`pip install tensorboard`) is only needed to look at them, by
    `tensorboard --logdir LOG_DIR`, and by `keras.callbacks.TensorBoard`.

    Args:
        log_dir: folder, which is made if need be.
        update_freq: "epoch", "batch", or a number of batches (with
            `stf.training.fit`, batches between two updates of masks count at once).
        pruning: the `PruningCallback` in use, if any. List it before this callback.
        image_size: most rows and columns of a picture; 0 for no pictures. One that is
            more than twice as long as wide, or wide as long, is stretched.

    Raises:
        ImportError: TensorFlow is missing, as it may be with other backends of Keras.
        TypeError: an argument has another type.
        ValueError: an argument is out of range; when training begins, the model has
            neither masked kernels nor layers that hold only nonzeros.

    Example:
    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = stf.pruning.prune_one_shot(model, 0.75)
    >>> model.compile("sgd", "mse")
    >>> log_dir = tempfile.mkdtemp()
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 5)), verbose=0,
    ...                     callbacks=[SparsityLogger(log_dir)])
    >>> import os
    >>> os.listdir(log_dir)
    ['sparsity']
    """

    def __init__(self, log_dir, update_freq="epoch", pruning=None, image_size=256):
        super().__init__()
        _import_tensorflow()
        self.log_dir = str(check_path(log_dir, "log_dir"))
        if not isinstance(update_freq, str) or update_freq not in ("epoch", "batch"):
            if isinstance(update_freq, str):
                raise ValueError(
                    '`update_freq` must be "epoch", "batch" or an integer. Received: '
                    f"{update_freq!r}"
                )
            update_freq = check_integer(update_freq, "update_freq", 1)
        if pruning is not None and not isinstance(pruning, PruningCallback):
            raise TypeError(
                "`pruning` must be a PruningCallback or None. Received: "
                f"{shown(pruning)}"
            )
        self.update_freq = update_freq
        self.pruning = pruning
        self.image_size = check_integer(image_size, "image_size", 0)
        self._every = {"epoch": None, "batch": 1}.get(update_freq, update_freq)
        self._writer = None
        self._images = {}
        self._written_at = None
        self._batches, self._last_batch = 0, -1

    def on_train_begin(self, logs=None):
        """Open the file and write how training begins."""
        tf = _import_tensorflow()
        table = summary(self.model, print_fn=None)
        if not any(row.masked for row in table.kernels):
            raise ValueError(
                "`model` must have masked kernels or layers that hold only nonzeros. "
                f"Received: model {self.model.name!r} without any; use "
                "`sparsenet_tf.sparsify(model)`"
            )
        folder = os.path.join(self.log_dir, "sparsity")
        self._writer = tf.summary.create_file_writer(folder)
        self._images, self._batches, self._last_batch = {}, 0, -1
        self._write(table)

    def on_epoch_begin(self, epoch, logs=None):
        """Batches are counted from 0 in each epoch."""
        self._last_batch = -1

    def on_train_batch_end(self, batch, logs=None):
        """Write if as many batches have passed as `update_freq` says."""
        if self._every is None:
            return
        before = self._batches
        self._batches += batch - self._last_batch
        self._last_batch = batch
        if self._batches // self._every > before // self._every:
            self._write()

    def on_epoch_end(self, epoch, logs=None):
        """Write if `update_freq` is "epoch"."""
        if self._every is None:
            self._write()

    def on_train_end(self, logs=None):
        """Write how training ended, unless that was written, and close the file."""
        if self._step() != self._written_at:
            self._write()
        self._writer.close()
        self._writer = None

    def _step(self):
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        return int(ops.convert_to_tensor(optimizer.iterations))

    def get_config(self):
        """The arguments."""
        return {
            "log_dir": self.log_dir,
            "update_freq": self.update_freq,
            "pruning": keras.saving.serialize_keras_object(self.pruning),
            "image_size": self.image_size,
        }

    @classmethod
    def from_config(cls, config):
        """The callback of `get_config`, with a `PruningCallback` of its own."""
        pruning = keras.saving.deserialize_keras_object(config["pruning"])
        return cls(**{**config, "pruning": pruning})

    def _write(self, table=None):
        tf = _import_tensorflow()
        step = self._step()
        scalars = self._scalars(step, table or summary(self.model, print_fn=None))
        # The callback of Keras has a writer and a condition of its own in force.
        with self._writer.as_default(step), tf.summary.record_if(True):
            for tag, value in scalars.items():
                _write_scalar(tag, value)
            if self.image_size:
                for image in mask_images(self.model, self.image_size):
                    self._write_image(f"masks/{image.path}", image.to_grey())
        self._writer.flush()
        self._written_at = step

    def _scalars(self, step, table):
        scalars = {"sparsity/total": table.sparsity}
        if self.pruning is not None:
            schedule = self.pruning.schedule
            due = schedule.last_update(step)
            scalars["sparsity/planned"] = 0.0 if due is None else schedule(due)
            scalars["sparsity/pruned"] = self.pruning.sparsity
        for row in table.kernels:
            if row.masked:
                scalars[f"sparsity/{row.path}"] = row.sparsity
                scalars[f"dead_inputs/{row.path}"] = row.dead_inputs
                scalars[f"dead_outputs/{row.path}"] = row.dead_outputs
        return scalars

    def _write_image(self, tag, grey):
        if np.array_equal(grey, self._images.get(tag)):
            return
        tf = _import_tensorflow()
        self._images[tag] = grey
        # TensorBoard has one width for all: long pictures are stretched to less so.
        for axis in (0, 1):
            times = grey.shape[1 - axis] // (2 * grey.shape[axis])
            grey = np.repeat(grey, max(1, times), axis=axis)
        height, width = grey.shape
        png = tf.io.encode_png(grey[..., None]).numpy()
        # What the plugin reads: width and height as text, then the pictures.
        values = tf.constant([str(width).encode(), str(height).encode(), png])
        tf.summary.write(
            tag, values, metadata=_metadata("images", "DATA_CLASS_BLOB_SEQUENCE")
        )


# tf.summary.scalar and tf.summary.image are in the package tensorboard, which
# TensorFlow does not install any more. tf.summary.write is TensorFlow's own; what it
# needs to know is the plugin that reads the values.


def _write_scalar(tag, value):
    tf = _import_tensorflow()
    tensor = tf.constant(value, tf.float32)
    metadata = _metadata("scalars", "DATA_CLASS_SCALAR")
    tf.summary.write(tag, tensor, metadata=metadata)


def _metadata(plugin, data_class):
    tf = _import_tensorflow()
    metadata = tf.compat.v1.SummaryMetadata(data_class=data_class)
    metadata.plugin_data.plugin_name = plugin
    return metadata


def _import_tensorflow():
    """Return TensorFlow; not at the top, since other backends have no need of it."""
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            f"SparsityLogger writes with TensorFlow ({error}): pip install tensorflow"
        ) from error
    return tensorflow
