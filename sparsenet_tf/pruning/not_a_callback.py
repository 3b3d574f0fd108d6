"""`NotACallback`: says where an object belongs that was put into `callbacks=`."""

_PLACES = {
    "schedule": "`stf.pruning.PruningCallback(schedule)`",
    "criterion": "`stf.pruning.PruningCallback(schedule, criterion)`",
    "structure": "`stf.pruning.PruningCallback(schedule, structure=structure)`",
    "fraction": "`stf.pruning.SET(schedule)`",
}


class NotACallback:
    """A base class of what a callback is given, and Keras takes for a callback.

    Args:
        place: which of `_PLACES` a subclass belongs in.
    """

    def __init_subclass__(cls, place=None, **kwargs):
        super().__init_subclass__(**kwargs)
        if place is not None:
            cls._place = _PLACES[place]

    def set_model(self, model):
        """Raise an error: Keras calls this of all that is in `callbacks`.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"`callbacks` must be Keras callbacks. Received: a {type(self).__name__}; "
            f"pass it to one, as {self._place}"
        )

    set_params = set_model
    # With JAX and PyTorch Keras asks first for this one, and does not call it.
    on_batch_end = property(lambda self: self.set_model(None))
