"""What all tests share: hypothesis without deadlines, since a busy machine is no bug, and with moderate effort."""

from hypothesis import settings

settings.register_profile("shardbox", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("shardbox")
