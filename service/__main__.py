"""python -m service is rmadapter."""

from service.cli import app

app()
