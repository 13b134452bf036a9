//! Holds every answer of a sale route that any test sees against the OpenAPI document.

use std::sync::OnceLock;

use serde_json::Value;

use crate::http::Answer;

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        serde_json::from_str(include_str!("../../docs/openapi.json")).expect("docs/openapi.json is JSON")
    })
}

/// Panics if `answer` to a sale route is one that the document does not name: its status, the type of its problem, or
/// a member that must be there. What is no route of the document (a wrong method, another path) is nobody's promise.
#[track_caller]
pub(crate) fn check(method: &str, url: &str, answer: &Answer) {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.splitn(4, '/').nth(3).unwrap_or_default();
    let Some((template, operation)) = operation(method, path) else {
        return;
    };
    // Refused as no such address, because a name in it is impossible.
    let status = answer.status.to_string();
    let Some(documented) = operation["responses"].get(&status) else {
        panic!(
            "{method} /{path} answered {status}, which docs/openapi.json does not name for {template}: {}",
            answer.text()
        );
    };
    if method == "HEAD" {
        return;
    }
    let content = &resolved(documented)["content"];
    if let Some(schema) = content.get("application/problem+json") {
        let named =
            schema["schema"]["allOf"][1]["properties"]["type"]["enum"].as_array().expect("the types of problems");
        let kind = &answer.json()["type"];
        assert!(
            named.contains(kind),
            "{method} {template} {status}: docs/openapi.json does not name the problem {kind}"
        );
    } else if let Some(schema) = content.get("application/json") {
        let body = answer.json();
        let alternatives = schema["schema"]["oneOf"].as_array().cloned().unwrap_or(vec![schema["schema"].clone()]);
        let fits = alternatives.iter().any(|schema| has_what_it_must(schema, &body));
        assert!(fits, "{method} {template} {status} lacks what docs/openapi.json promises: {body}");
    } else {
        assert!(answer.body.is_empty(), "{method} {template} {status} has a body, says nobody");
    }
}

/// What a reference inside the document stands for.
fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document().pointer(pointer).expect("references lead somewhere"),
        None => value,
    }
}

fn operation(method: &str, path: &str) -> Option<(&'static str, &'static Value)> {
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    let segments: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let pattern: Vec<&str> = template.trim_start_matches('/').split('/').collect();
        pattern.len() == segments.len()
            && pattern
                .iter()
                .zip(&segments)
                .all(|(part, segment)| if part.starts_with('{') { !segment.is_empty() } else { part == segment })
    };
    let paths = document()["paths"].as_object().expect("paths");
    let (template, item) = paths.iter().find(|(template, _)| fits(template))?;
    Some((template.as_str(), item.get(&method)?))
}

/// Whether `body` has the members that the schema requires, and no others where it names all.
fn has_what_it_must(schema: &Value, body: &Value) -> bool {
    let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()).expect("a named schema");
    let schema = &document()["components"]["schemas"][name];
    let (Some(required), Some(body)) = (schema["required"].as_array(), body.as_object()) else {
        return false;
    };
    required.iter().filter_map(Value::as_str).all(|member| body.contains_key(member))
        && body.keys().all(|member| schema["properties"].get(member).is_some())
}
