//! The OpenAPI document of the sale routes: kept by hand in `docs/openapi.json`, served by the admin listener.
//!
//! The tests here hold it against the table of routes and the table of problems; the test suite's HTTP client
//! holds every answer that it sees against it.

/// The document.
pub const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::problem::{Problem, TABLE, TYPE_PREFIX};
    use crate::http::routes;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// `METHOD path` and the operation.
    fn operations(document: &Value) -> Vec<(String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters");
            methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation.clone()))
        });
        operations.collect()
    }

    /// The responses of an operation by status, references followed.
    fn responses<'a>(document: &'a Value, operation: &'a Value) -> Vec<(u16, &'a Value)> {
        let responses = operation["responses"].as_object().unwrap().iter();
        let responses = responses.map(|(status, response)| {
            let reference = response["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
            let response = reference.map_or(response, |pointer| document.pointer(pointer).unwrap());
            (status.parse().unwrap(), response)
        });
        responses.collect()
    }

    /// Status and word of every problem that an operation names.
    fn problems(document: &Value, operation: &Value) -> Vec<(u16, String)> {
        let mut problems = Vec::new();
        for (status, response) in responses(document, operation) {
            let types = &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["type"];
            for kind in types["enum"].as_array().into_iter().flatten() {
                let word = kind.as_str().unwrap().strip_prefix(TYPE_PREFIX).unwrap();
                problems.push((status, word.to_owned()));
            }
        }
        problems
    }

    #[test]
    fn it_has_every_route_and_no_other() {
        let documented: BTreeSet<String> = operations(&document()).into_iter().map(|(name, _)| name).collect();
        let served: BTreeSet<String> = routes::templates().into_iter().collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn its_problems_are_those_of_the_table() {
        let document = document();
        for (name, operation) in operations(&document) {
            for (status, word) in problems(&document, &operation) {
                let row = TABLE.iter().find(|row| row.word == word).unwrap_or_else(|| panic!("{name}: {word}"));
                // A config choice.
                let known = row.status == status || (word == "not-open" && status == 403);
                assert!(known, "{name}: {word} is {} and not {status}", row.status);
            }
        }
    }

    #[test]
    fn it_says_where_waiting_helps() {
        let document = document();
        for (name, operation) in operations(&document) {
            for (status, response) in responses(&document, &operation) {
                let types =
                    &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["type"];
                let words = types["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let helps = words
                    .filter_map(|word| word.strip_prefix(TYPE_PREFIX))
                    .any(|word| TABLE.iter().any(|row| row.word == word && row.retry_after_s.is_some()));
                let told = response["headers"].get("Retry-After").is_some();
                assert_eq!(helps, told, "Retry-After of {name} {status}");
            }
        }
    }

    #[test]
    fn every_problem_of_a_sale_stands_in_it() {
        let document = document();
        let operations = operations(&document);
        let problems = operations.iter().flat_map(|(_, operation)| problems(&document, operation));
        let named: BTreeSet<String> = problems.map(|(_, word)| word).collect();
        let of_no_sale = [Problem::Method, Problem::ShopDown, Problem::ShopTimeout].map(Problem::word);
        for row in TABLE {
            assert!(named.contains(row.word) || of_no_sale.contains(&row.word), "{}", row.word);
        }
    }
}
