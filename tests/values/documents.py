"""Reads YAML with PyYAML, JSON with the module `json` and TOML with the module `tomllib`.

The input is a JSON array of pairs: a format and a document. The output is an array of the entries of each document, or
`null` if the reader refuses it. An entry is a path of names, a kind and a text:

- `text`: the value, as the document has it. A list is compact JSON.
- `number`: an integer or a date of TOML, in one notation.
- `null`: there is no value.
- `tag`: the value has a tag that asks for a conversion.
"""

import json
import re
import sys
import tomllib

import yaml

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
CORE = "tag:yaml.org,2002:"


class Literal(str):
    """A value without quotes."""


class Tagged(str):
    """A value with a tag that asks for a conversion."""


class Refused(Exception):
    pass


def is_null(value):
    return isinstance(value, type(None))


def unique(pairs):
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise Refused
    return entries


def read_yaml(document):
    nodes = list(yaml.compose_all(document, Loader=yaml.BaseLoader))
    if len(nodes) > 1:
        raise Refused
    root = convert(nodes[0]) if nodes and not is_null(nodes[0]) else {}
    return {} if is_null(root) else root


def convert(node):
    if not node.tag.startswith(CORE):
        return Tagged()
    if isinstance(node, yaml.SequenceNode):
        return [convert(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        if node.style or node.tag != CORE + "str":
            return node.value
        return None if node.value in ("", "~", "null", "Null", "NULL") else Literal(node.value)
    own, merged = [], {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise Refused
        if not name.style and name.value == "<<":
            tables = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for table in map(convert, tables):
                merged = {**table, **merged}
        else:
            own.append((name.value, convert(value)))
    return {**merged, **unique(own)}


def refuse(_):
    raise Refused


def read_json(document):
    root = json.loads(
        document,
        object_pairs_hook=unique,
        parse_float=Literal,
        parse_int=Literal,
        parse_constant=refuse,
    )
    return with_booleans(root)


def with_booleans(value):
    if isinstance(value, dict):
        return {name: with_booleans(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_booleans(item) for item in value]
    return Literal(str(value).lower()) if isinstance(value, bool) else value


def read_toml(document):
    return with_booleans(tomllib.loads(document, parse_float=Literal))


def compact(value):
    if is_null(value):
        return "null"
    if isinstance(value, dict):
        entries = (f"{quoted(name)}:{compact(inner)}" for name, inner in value.items())
        return "{" + ",".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    is_literal = value in ("true", "false") or NUMBER.fullmatch(value)
    return str(value) if isinstance(value, Literal) and is_literal else quoted(value)


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


def has_tag(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return isinstance(value, Tagged) or any(map(has_tag, inner))


def entries(value, path):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from entries(inner, [*path, name])
    elif is_null(value):
        yield [path, "null", ""]
    elif has_tag(value):
        yield [path, "tag", ""]
    elif isinstance(value, list):
        yield [path, "text", compact(value)]
    elif isinstance(value, str):
        yield [path, "text", value]
    else:
        yield [path, "number", str(value)]


def read(kind, document):
    readers = {"yaml": read_yaml, "json": read_json, "toml": read_toml}
    try:
        root = readers[kind](document)
    except (Refused, ValueError, yaml.YAMLError):
        return None
    return list(entries(root, [])) if isinstance(root, dict) else None


print(json.dumps([read(kind, document) for kind, document in json.load(sys.stdin)]))
