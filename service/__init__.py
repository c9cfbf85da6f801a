"""The service: HTTP, tenants, records, blobs, the inference engine, the command line."""

import os

__version__ = "0.1.0"

# ONNX Runtime reports its sessions to Microsoft from 1.29 on, and open_clip's hub its users, unless
# told not to before they are imported. Who wants to may set these to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
