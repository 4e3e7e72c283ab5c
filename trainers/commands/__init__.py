"""What each command of `shardbox` takes, does and says."""
