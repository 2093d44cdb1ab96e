"""Loaded once by the process from which tests fork publishers: boto3 reads its descriptions of S3 here."""

import os

from ci.store.s3 import S3Store
from tests.s3_kit import CREDENTIALS

os.environ.update(CREDENTIALS)
S3Store.connect("s3://none", endpoint_url="http://127.0.0.1:1")
