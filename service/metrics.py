"""The Prometheus metrics, each once. No tenant is a label: there are thousands.

An API server's are at /metrics, a worker's on RMADAPTER_WORKER_METRICS_PORT.
"""

from prometheus_client import Counter, Gauge, Histogram

_FIT_SECONDS = (1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("rmadapter_requests_total", "HTTP requests", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "rmadapter_request_seconds", "HTTP requests, whole", ["method", "route"], buckets=_SECONDS
)
IMAGES = Counter("rmadapter_images_total", "Pictures classified or embedded", ["outcome"])
BODY_BYTES = Gauge(
    "rmadapter_body_bytes", "Bytes of large request bodies that are being read or answered"
)
QUEUED_ROWS = Gauge("rmadapter_queued_rows", "Rows waiting for the device")
QUEUE_SECONDS = Histogram(
    "rmadapter_queue_seconds", "Waiting of a row for the device", buckets=_SECONDS
)
BATCH_ROWS = Histogram(
    "rmadapter_batch_rows", "Rows of a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
BATCH_SECONDS = Histogram("rmadapter_batch_seconds", "One batch on the device", buckets=_SECONDS)
ADAPTER_LOOKUPS = Counter("rmadapter_adapter_lookups_total", "Where an adapter was found", ["tier"])
ADAPTER_EVICTIONS = Counter("rmadapter_adapter_evictions_total", "Adapters put out of the bank")
WORKING_SET = Gauge(
    "rmadapter_adapter_working_set_ratio",
    "Adapters asked for in the last minute over the bank's capacity",
)
OPEN_JOBS = Gauge("rmadapter_open_jobs", "Fits that are queued or running, of all tenants")
FITS = Counter("rmadapter_fits_total", "Fits that ended, on this worker", ["state"])
FIT_SECONDS = Histogram(
    "rmadapter_fit_seconds", "A fit on this worker, from its claim to its end", buckets=_FIT_SECONDS
)
STORE_ERRORS = Counter(
    "rmadapter_store_errors_total", "Calls that Redis or the blob store failed", ["store"]
)
