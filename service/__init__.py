"""The service: HTTP, tenants, records, blobs, the inference engine, the command line."""
