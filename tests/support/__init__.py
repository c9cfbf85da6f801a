"""What several tests use: servers, workers, photos, adapters. Fixtures are in conftest.py."""
