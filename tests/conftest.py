"""Of all tests: a property holds or not, however long a busy machine takes over one example."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
