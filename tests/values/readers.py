"""Reads `.env` documents with python-dotenv.

The input is a JSON array of documents. The output is an array of objects of names and values.
"""

import io
import json
import logging
import os
import sys

from dotenv import dotenv_values

logging.disable(logging.CRITICAL)
os.environ.clear()
os.environ.update(HOME="/home/user", SET="x")


def read(document):
    stream = io.TextIOWrapper(io.BytesIO(document.encode()), encoding="utf-8")
    return dict(dotenv_values(stream=stream))


print(json.dumps([read(document) for document in json.load(sys.stdin)]))
