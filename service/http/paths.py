"""The parts of a path, each with what it is and an example for the API reference."""

from typing import Annotated

from fastapi import Path

TenantPath = Annotated[
    str, Path(description="the tenant's id", examples=["tenant_0643a1b2c3d4e0123abcd"])
]
KeyPath = Annotated[
    str, Path(description="the key's id, not the key", examples=["key_0643a1b2c3d4e0123abcd"])
]
DatasetPath = Annotated[
    str, Path(description="the data set's id", examples=["dataset_0643a1b2c3d4e0123abcd"])
]
ImagePath = Annotated[
    str,
    Path(
        description="the SHA-256 of the photo as it was sent",
        examples=["50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c"],
    ),
]
JobPath = Annotated[str, Path(description="the job's id", examples=["job_0643a1b2c3d4e0123abcd"])]
AdapterPath = Annotated[str, Path(description="the adapter's name", examples=["flowers"])]
VersionPath = Annotated[int, Path(description="the version's number", examples=[1])]
ProjectPath = Annotated[
    str,
    Path(description="any id; it comes back", examples=["5b3c9e4c-6b1f-4a7e-9f0d-0a1b2c3d4e5f"]),
]
PublishedNamePath = Annotated[str, Path(description="the adapter's name", examples=["flowers"])]
