"""Records, boxes, image differences, shards, Beam jobs and the tf.data to PyTorch bridge."""
