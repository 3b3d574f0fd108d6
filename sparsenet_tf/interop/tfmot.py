"""From tensorflow-model-optimization (tfmot): `as_schedule`, for its schedules.

Importing tfmot sets `TF_USE_LEGACY_KERAS` and loads tf_keras, so this module does not:
it reads what tfmot's objects say of themselves (`get_config`).
"""

from sparsenet_tf.pruning.schedules import as_schedule as as_schedule
