//! YAML documents.
//!
//! A value is the text of the document, so nothing here depends on how a version of YAML reads `no`, `007` or `12:30`.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use secretwell_core::Error;
use secretwell_core::json::Object;
use zeroize::Zeroizing;

use super::malformed;
use super::node::Node;

/// The namespace of YAML's own tags, which are written with `!!`.
const NAMESPACE: &str = "tag:yaml.org,2002:";
/// The maximum nesting depth of a document, with the aliases in it expanded.
const MAX_DEPTH: usize = 100;
/// The maximum number of the parser's events: values, names, and the ends of tables and lists.
const MAX_EVENTS: usize = 1_000_000;
/// The maximum number of values that anchors and aliases copy.
const MAX_COPIED_NODES: usize = 100_000;
/// The maximum length of the names and texts that anchors and aliases copy, in bytes.
const MAX_COPIED_BYTES: usize = 16 << 20;

/// Parses a YAML document. Values without quotes keep their text.
pub(super) fn parse(text: &str) -> Result<Node, Error> {
    let options = granit_parser::options! {
        emit_comments: false,
        // Like libyaml: a block without a line end at the end of the document has none in its value.
        block_scalar_eof_without_line_feed: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder {
        text,
        ..Builder::default()
    };
    for (count, result) in Parser::new_from_str_with_options(text, options).enumerate() {
        // The parser's message is dropped, because it quotes the document.
        let (event, span) =
            result.map_err(|error| invalid(error.marker().line(), "the syntax is not valid"))?;
        let line = span.tag_start().unwrap_or(span.start).line();
        if count >= MAX_EVENTS {
            return Err(invalid(
                line,
                "the document has more than 1,000,000 values and names",
            ));
        }
        builder.add(event, span, line)?;
    }
    Ok(match builder.root {
        // A document of comments, or one without content.
        None | Some(Node::Null) => Node::Map(Object::default()),
        Some(root) => root,
    })
}

fn invalid(line: usize, reason: &str) -> Error {
    malformed(format!("line {line}: invalid YAML: {reason}"))
}

/// Builds the tree from the parser's events.
#[derive(Default)]
struct Builder<'a> {
    text: &'a str,
    root: Option<Node>,
    has_document: bool,
    /// The tables and lists that have not ended, outermost first.
    open: Vec<Collection>,
    anchors: HashMap<usize, (Node, Size)>,
    copied: Size,
}

/// A table or a list that has not ended.
struct Collection {
    line: usize,
    anchor: usize,
    refused: Option<Error>,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(Map),
}

#[derive(Default)]
struct Map {
    entries: Vec<(String, Node)>,
    /// The line of each entry.
    lines: Vec<usize>,
    /// The name whose value follows.
    name: Option<Name>,
    /// The entries of the merge key `<<`, if there is one.
    merged: Option<Vec<(String, Node)>>,
}

enum Name {
    Text {
        text: String,
        line: usize,
        /// The position after the name, in bytes. `None` if the name is an alias.
        end: Option<usize>,
    },
    Merge(usize),
}

/// How much of a document a node is.
#[derive(Default, Clone, Copy)]
struct Size {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl Builder<'_> {
    fn add(&mut self, event: Event<'_>, span: Span, line: usize) -> Result<(), Error> {
        match event {
            Event::DocumentStart(..) if std::mem::replace(&mut self.has_document, true) => {
                Err(invalid(line, "a second document begins")
                    .with_hint("write each document to its own file"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_absent = span.is_empty() && style == ScalarStyle::Plain;
                let scalar = Scalar {
                    text: match is_absent {
                        // The parser reports an absent value as `~`.
                        true => Zeroizing::default(),
                        false => Zeroizing::new(text.into_owned()),
                    },
                    is_plain: style == ScalarStyle::Plain,
                    tag: tag.as_deref(),
                    line,
                };
                match self.awaits_name() {
                    Some(map) => {
                        let name = map.name.insert(scalar.name(span.end.byte_offset())?);
                        if let Name::Text { text, .. } = name {
                            let node = Node::literal(text);
                            self.set_anchor(anchor, &node, line)?;
                        }
                        Ok(())
                    }
                    None => {
                        let node = match scalar.tag {
                            None if is_absent => self.absent_value(anchor, line),
                            _ => scalar.node(),
                        };
                        self.set_anchor(anchor, &node, line)?;
                        self.push(node, line)
                    }
                }
            }
            Event::Alias(anchor) => self.alias(anchor, line),
            Event::SequenceStart(_, anchor, tag) => self.open(
                Content::List(Vec::new()),
                "seq",
                anchor,
                tag.as_deref(),
                line,
            ),
            Event::MappingStart(_, anchor, tag) => self.open(
                Content::Map(Map::default()),
                "map",
                anchor,
                tag.as_deref(),
                line,
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            _ => Ok(()),
        }
    }

    /// Returns the node of a value that is absent, or its refusal if a value without quotes was certainly meant.
    fn absent_value(&self, anchor: usize, line: usize) -> Node {
        let (what, character) = match anchor {
            0 if self.is_comment() => ("a comment", '#'),
            0 => return Node::Null,
            _ => ("an anchor without a value", '&'),
        };
        let message =
            format!("line {line}: the value is {what}, because it begins with `{character}`");
        Node::Refused(
            malformed(message).with_hint("put it in quotes, or write `null` if it has no value"),
        )
    }

    /// Returns whether a comment without a blank after its `#` follows the current name directly.
    fn is_comment(&self) -> bool {
        let name = match self.open.last().map(|open| &open.content) {
            Some(Content::Map(map)) => map.name.as_ref(),
            _ => None,
        };
        let Some(Name::Text { end: Some(end), .. }) = name else {
            return false;
        };
        let rest = self.text.get(*end..).and_then(|rest| rest.lines().next());
        let comment = rest
            .and_then(|rest| rest.trim_start().strip_prefix(':'))
            .and_then(|rest| rest.trim_start().strip_prefix('#'));
        comment.is_some_and(|comment| {
            let is_text = |c: char| !c.is_whitespace() && c != '#';
            comment.starts_with(is_text)
        })
    }

    /// Returns the innermost table, if its next scalar is a name.
    fn awaits_name(&mut self) -> Option<&mut Map> {
        match &mut self.open.last_mut()?.content {
            Content::Map(map) if map.name.is_none() => Some(map),
            _ => None,
        }
    }

    fn open(
        &mut self,
        content: Content,
        own_tag: &str,
        anchor: usize,
        tag: Option<&Tag>,
        line: usize,
    ) -> Result<(), Error> {
        if self.awaits_name().is_some() {
            return Err(invalid(line, "a name is a list or a table"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(invalid(line, "values are nested too deeply"));
        }
        let is_own =
            |tag: &Tag| own_name(tag).is_some_and(|name| name == own_tag || name.is_empty());
        self.open.push(Collection {
            line,
            anchor,
            refused: tag.filter(|tag| !is_own(tag)).map(|tag| refuse(tag, line)),
            content,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(Collection {
            line,
            anchor,
            refused,
            content,
        }) = self.open.pop()
        else {
            return Ok(());
        };
        let node = match (refused, content) {
            (Some(error), _) => Node::Refused(error),
            (None, Content::List(items)) => Node::List(items),
            (None, Content::Map(map)) => map.finish()?,
        };
        self.set_anchor(anchor, &node, line)?;
        self.push(node, line)
    }

    /// Adds a finished node to the innermost list or table.
    fn push(&mut self, node: Node, line: usize) -> Result<(), Error> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map(map)) => match map.name.take() {
                Some(Name::Text { text, line, .. }) => {
                    map.entries.push((text, node));
                    map.lines.push(line);
                }
                Some(Name::Merge(line)) => {
                    if map.merged.replace(merged_entries(node, line)?).is_some() {
                        return Err(invalid(line, "duplicate name"));
                    }
                }
                None => return Err(invalid(line, "a value has no name")),
            },
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<(), Error> {
        let Some(&(_, size)) = self.anchors.get(&anchor) else {
            return Err(invalid(line, "an alias is inside of its own anchor"));
        };
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err(invalid(line, "values are nested too deeply"));
        }
        self.count_copy(size, line)?;
        let node = self.anchors[&anchor].0.clone();
        match (self.awaits_name(), node) {
            (None, node) => self.push(node, line),
            (Some(map), Node::Literal(text) | Node::Text(text)) => {
                map.name = Some(Name::Text {
                    text: text.to_string(),
                    line,
                    end: None,
                });
                Ok(())
            }
            (Some(_), _) => Err(invalid(line, "a name is a list, a table or null")),
        }
    }

    fn set_anchor(&mut self, anchor: usize, node: &Node, line: usize) -> Result<(), Error> {
        if anchor != 0 {
            let size = Size::of(node);
            self.count_copy(size, line)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(())
    }

    /// Counts a copy before it is made, so that a small document cannot expand to a large tree.
    fn count_copy(&mut self, size: Size, line: usize) -> Result<(), Error> {
        self.copied.nodes += size.nodes;
        self.copied.bytes += size.bytes;
        if self.copied.nodes > MAX_COPIED_NODES || self.copied.bytes > MAX_COPIED_BYTES {
            return Err(invalid(
                line,
                "the anchors and aliases expand to more than 100,000 values or 16 MiB",
            ));
        }
        Ok(())
    }
}

impl Map {
    /// Returns the table with the merged entries that it does not set itself.
    fn finish(self) -> Result<Node, Error> {
        let duplicate = |position: usize| {
            let line = self.lines.get(position).copied().unwrap_or_default();
            invalid(line, "duplicate name")
        };
        let own = Object::new(self.entries).map_err(duplicate)?;
        let Some(mut merged) = self.merged else {
            return Ok(Node::Map(own));
        };
        // Of two merged tables, the first one wins.
        let mut names = HashSet::new();
        merged.retain(|(name, _)| own.get(name).is_none() && names.insert(name.clone()));
        let mut entries = own.into_entries();
        entries.append(&mut merged);
        Object::new(entries)
            .map(Node::Map)
            .map_err(|_| malformed("duplicate name"))
    }
}

/// Returns the entries of the value of a merge key, a table or a list of tables.
fn merged_entries(node: Node, line: usize) -> Result<Vec<(String, Node)>, Error> {
    match node {
        Node::Map(object) => Ok(object.into_entries()),
        Node::List(items) => {
            let mut entries = Vec::new();
            for item in items {
                let Node::Map(object) = item else {
                    return Err(not_a_table(line));
                };
                entries.extend(object.into_entries());
            }
            Ok(entries)
        }
        _ => Err(not_a_table(line)),
    }
}

fn not_a_table(line: usize) -> Error {
    invalid(
        line,
        "the value of the merge key `<<` is not a table or a list of tables",
    )
}

/// A scalar as the parser reports it.
struct Scalar<'a> {
    text: Zeroizing<String>,
    /// Whether it has no quotes and is not a block.
    is_plain: bool,
    tag: Option<&'a Tag>,
    line: usize,
}

impl Scalar<'_> {
    fn node(self) -> Node {
        let is_null =
            self.is_plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL");
        let Some(tag) = self.tag else {
            return match self.is_plain {
                true if is_null => Node::Null,
                true => Node::Literal(self.text),
                false => Node::Text(self.text),
            };
        };
        match own_name(tag) {
            Some("" | "str") => Node::Text(self.text),
            Some("int" | "float" | "bool") => Node::Literal(self.text),
            Some("null") if is_null => Node::Null,
            _ => Node::Refused(refuse(tag, self.line)),
        }
    }

    fn name(mut self, end: Option<usize>) -> Result<Name, Error> {
        let is_merge_tag = self.tag.is_some_and(|tag| {
            tag.suffix_in_namespace(NAMESPACE)
                .is_some_and(|name| name == "merge")
        });
        let has_merge_form = self.is_plain && *self.text == "<<";
        match self.tag {
            None if has_merge_form => Ok(Name::Merge(self.line)),
            Some(_) if has_merge_form && is_merge_tag => Ok(Name::Merge(self.line)),
            Some(tag) if own_name(tag).is_none() => {
                Err(invalid(self.line, "a name has a tag (`!`)"))
            }
            _ => Ok(Name::Text {
                text: std::mem::take(&mut self.text),
                line: self.line,
                end,
            }),
        }
    }
}

/// Returns the name of a tag of YAML's core schema, such as `str`. The tag `!` has an empty name: it makes a value text.
fn own_name(tag: &Tag) -> Option<&str> {
    match tag.parts() {
        ("", "!") => Some(""),
        _ => tag.core_suffix(),
    }
}

/// Returns the error of a value whose tag asks for a conversion.
///
/// The error contains no tag of the document, because a password without quotes can begin with `!`.
fn refuse(tag: &Tag, line: usize) -> Error {
    let known = ["binary", "timestamp", "set", "omap", "pairs"];
    let of_yaml = tag.suffix_in_namespace(NAMESPACE);
    if let Some(name) = known
        .into_iter()
        .find(|name| of_yaml.as_deref() == Some(name))
    {
        return malformed(format!(
            "line {line}: the value has the tag `!!{name}`, which is not supported"
        ))
        .with_hint("write the value as text");
    }
    match tag.original_parts() {
        ("!", "vault" | "vault-encrypted") => {
            malformed(format!("line {line}: the value is encrypted by Ansible Vault"))
                .with_hint("decrypt it before the document is deployed")
        }
        _ => malformed(format!("line {line}: the value begins with a tag (`!`), which is not supported"))
            .with_hint("put the value in quotes if the `!` is part of it, or write the value that the tag refers to"),
    }
}

impl Size {
    fn of(node: &Node) -> Self {
        let mut size = Self {
            nodes: 1,
            ..Self::default()
        };
        let mut add = |child: Self| {
            size.nodes += child.nodes;
            size.bytes += child.bytes;
            size.depth = size.depth.max(child.depth + 1);
        };
        match node {
            Node::Null | Node::Refused(_) => {}
            Node::Literal(text) | Node::Text(text) => size.bytes = text.len(),
            Node::List(items) => items.iter().for_each(|item| add(Self::of(item))),
            Node::Map(object) => {
                for (name, child) in object.iter() {
                    let Self {
                        nodes,
                        bytes,
                        depth,
                    } = Self::of(child);
                    add(Self {
                        nodes,
                        bytes: bytes + name.len(),
                        depth,
                    });
                }
            }
        }
        size
    }
}
