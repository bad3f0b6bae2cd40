"""Read files that people bring, write files that are either complete or absent, and explain problems in one line.

Imports nothing heavy.
"""

from cap2im.files.folders import atomic_folder, existing_folder
from cap2im.files.messages import brief, counted, describe, explain, shortened
from cap2im.files.reading import (
    BYTE_ORDER_MARKS,
    LARGEST_DOCUMENT,
    JSONObject,
    check_parsed_size,
    check_regular_file,
    decode_text,
    dump_json,
    file_sha256,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    sha256,
    split_lines,
    validate,
)
from cap2im.files.writing import (
    RESERVED_NAMES,
    atomic_path,
    check_unicode_path,
    check_writable_file,
    check_writable_folder,
    flush,
    has_no_files,
    lock,
    naming,
    safe_file_name,
    write_atomically,
)

__all__ = [
    "BYTE_ORDER_MARKS",
    "LARGEST_DOCUMENT",
    "RESERVED_NAMES",
    "JSONObject",
    "atomic_folder",
    "atomic_path",
    "brief",
    "check_parsed_size",
    "check_regular_file",
    "check_unicode_path",
    "check_writable_file",
    "check_writable_folder",
    "counted",
    "decode_text",
    "describe",
    "dump_json",
    "existing_folder",
    "explain",
    "file_sha256",
    "flush",
    "has_no_files",
    "lock",
    "naming",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "safe_file_name",
    "sha256",
    "shortened",
    "split_lines",
    "validate",
    "write_atomically",
]
