//! JSON documents.

use secretwell_core::Error;
use secretwell_core::json::Json;

use super::malformed;
use super::node::Node;

/// Parses a JSON document. Numbers keep their text.
pub(super) fn parse(text: &str) -> Result<Node, Error> {
    match Json::parse(text) {
        Ok(json) => Ok(node(json)),
        Err(error) => {
            let (line, column) = (error.line, error.column);
            Err(malformed(format!(
                "line {line}, column {column}: invalid JSON: {}",
                error.reason
            )))
        }
    }
}

fn node(json: Json<'_>) -> Node {
    match json {
        Json::Null => Node::Null,
        Json::Literal(text) => Node::literal(text),
        Json::Text(text) => Node::Text(text),
        Json::List(items) => Node::List(items.into_iter().map(node).collect()),
        Json::Object(object) => Node::Map(object.map(node)),
    }
}
